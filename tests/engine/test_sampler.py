"""Sampling parameters do what they say, reproducibly, beside lookahead requests in one batch."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from build_engine.lookahead import PLAIN
from nimble_coder.contract.decoding import read_call
from nimble_coder.contract.request import Request, RequestError, Sampling
from nimble_coder.contract.response import FinishReason
from nimble_coder.engine.generate import generate
from nimble_coder.engine.likely import Floats, Likely, Ranking, log_softmax, most_likely
from nimble_coder.engine.sampler import Sampler
from nimble_coder.engine.torch_logits import likely_rows
from tests.conftest import EMBEDDED
from tests.engine.conftest import LoadEngine

PROMPT = [5, 17, 900, 33, 5, 17, 900, 34, 12, 5, 17]
NOT_FINITE = (float("inf"), float("-inf"), float("nan"))
LOGITS = np.array([1.0, 3.0, 2.0, -1.0, 0.5], np.float32)


def drawn(sampling: Sampling, count: int = 4000) -> Counter[int]:
    """How often each token is drawn from LOGITS by independent samplers."""
    samplers = [Sampler(sampling, [], (), seed) for seed in range(count)]
    return Counter(sampler.choose(LOGITS)[0] for sampler in samplers)


def test_tokens_are_drawn_with_their_probabilities() -> None:
    found = drawn(Sampling(temperature=1.0))
    for token, probability in enumerate(np.exp(log_softmax(LOGITS)).tolist()):
        assert found[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_temperature_sharpens() -> None:
    expected = np.exp(log_softmax(LOGITS * 2))[1]
    assert drawn(Sampling(temperature=0.5))[1] / 4000 == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (Sampling(temperature=0.0), {1}),
        (Sampling(top_k=1), {1}),
        (Sampling(top_k=2), {1, 2}),
        (Sampling(top_k=3), {0, 1, 2}),
        (Sampling(top_p=0.5), {1}),
        (Sampling(top_p=0.8), {1, 2}),
        (Sampling(min_p=0.2), {1, 2}),
        (Sampling(bad_words=((1,), (2,)), top_k=2), {0, 4}),
    ],
)
def test_cuts_leave_only_the_tokens_they_name(sampling: Sampling, possible: set[int]) -> None:
    assert set(drawn(sampling, 400)) == possible


@pytest.mark.parametrize(
    "cut",
    [
        {},
        {"top_k": 2},
        {"top_k": 300},
        {"top_p": 0.6},
        {"top_p": 0.999},
        {"min_p": 0.3},
        {"min_p": 1e-4},
        {"top_k": 9, "top_p": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_a_few_tokens_sorted_at_first_draw_what_all_of_them_draw(cut: dict[str, Any], spread: float) -> None:
    """Also where logits are equal, and where the few are not enough."""
    exact = (torch.randn(20_000, generator=torch.Generator().manual_seed(1)) * spread).bfloat16()
    logits: Floats = exact.float().numpy()
    sampling = Sampling(temperature=0.9, **cut)
    together = likely_rows(exact[None], np.array([0.9], np.float32)).row(0)
    found = []
    for likely in (*(Likely.of(logits, 0.9, few) for few in (20_000, 300, 20)), together):
        samplers = [Sampler(sampling, [], (), seed) for seed in range(100)]
        tokens = [sampler.choose_likely(likely) for sampler in samplers]
        assert not likely.is_all or None not in tokens
        found.append([s.choose(logits)[0] if t is None else t for s, t in zip(samplers, tokens, strict=True)])
    assert found[1:] == found[:1] * 3
    assert len(set(found[0])) > 1


def drawn_from_all_sorted(logits: Floats, sampling: Sampling, chance: float) -> int:
    """As `Sampler` says it, spelled out."""
    order = np.argsort(-logits, kind="stable")
    order = order[logits[order] > -np.inf][: sampling.top_k or None]
    below = (logits.max() - logits[order]) * np.float32(1 / sampling.temperature)
    weights = np.exp(-below).astype(np.float64)
    sums = weights.cumsum() / weights.sum()
    kept = (sums - weights / weights.sum() < sampling.top_p) & (weights >= sampling.min_p)
    return int(order[np.searchsorted(sums[kept], chance * sums[kept][-1], side="right")])


@pytest.mark.parametrize("temperature", [0.01, 1.0, 2.0, 1000.0])
@pytest.mark.parametrize(
    "cut",
    [
        {},
        {"top_k": 1},
        {"top_k": 2000},
        {"top_k": 19_999},
        {"top_k": 50_000},
        {"top_p": 0.9},
        {"top_p": 0.999999},
        {"min_p": 0.2},
        {"min_p": 1e-3, "top_p": 0.99, "top_k": 15_000},
    ],
    ids=str,
)
def test_ranking_all_tokens_draws_what_sorting_them_draws(cut: dict[str, Any], temperature: float) -> None:
    random = np.random.default_rng(3)
    spread, ties = random.standard_normal(20_000) * 2, np.round(random.standard_normal(20_000))
    forbidden = np.where(random.random(20_000) < 0.5, -np.inf, spread)
    one = np.full(20_000, -np.inf)
    one[777] = 5.0
    equal, outlier = np.zeros(20_000), np.concatenate([spread[:-1], [-1e4]])
    sampling = Sampling(temperature=temperature, **cut)
    for row in (spread, ties, forbidden, one, equal, outlier):
        logits = row.astype(np.float32)
        ranking = Ranking(logits, temperature)
        for seed in range(10):
            sampler = Sampler(sampling, [], (), seed)
            assert sampler._pick_of_all(ranking) == drawn_from_all_sorted(logits, sampling, sampler._chance)


@pytest.mark.parametrize("chance", [0.0, 1 - 2.0**-53])
def test_nothing_forbidden_is_drawn_at_the_end_of_all_chances(chance: float) -> None:
    random = np.random.default_rng(4)
    for _ in range(20):
        logits = np.where(random.random(5000) < 0.5, -np.inf, random.standard_normal(5000)).astype(np.float32)
        sampler = Sampler(Sampling(temperature=2.0), [], (), 0)
        sampler._chance = chance
        token = sampler._pick_of_all(Ranking(logits, 2.0))
        assert logits[token] == (logits.max() if chance == 0 else logits[logits > -np.inf].min())


@pytest.mark.parametrize("few", [1, 20, 300, 1000])
@pytest.mark.parametrize("count", [5, 999, 20_000])
def test_the_most_likely_tokens_are_those_that_sorting_all_puts_first(count: int, few: int) -> None:
    """Equal logits in the order of their tokens; where many are equal, all of them or none."""
    for spread in (0.02, 1.0, 30.0):
        logits = np.round(np.random.default_rng(count).standard_normal(count) * spread).astype(np.float32)
        tokens = most_likely(logits, few)
        assert len(tokens) >= min(few, count)
        assert tokens.tolist() == np.argsort(-logits, kind="stable")[: len(tokens)].tolist()
        assert (np.delete(logits, tokens) < logits[tokens[-1]]).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_of_logits_that_are_no_numbers_nothing_is_drawn(wrong: float) -> None:
    logits = np.full(5000, -np.inf, np.float32) if wrong == -np.inf else np.zeros(5000, np.float32)
    logits[4321] = wrong
    with pytest.raises(ValueError, match="no token is left"):
        Sampler(Sampling(temperature=1.0), [], (), 0).choose(logits)


def test_a_bad_word_of_two_tokens_is_never_completed() -> None:
    sampler = Sampler(Sampling(temperature=0.0, bad_words=((1, 1),)), [], (), 0)
    assert [sampler.choose(LOGITS)[0] for _ in range(4)] == [1, 2, 1, 2]


def test_many_bad_words_cost_a_step_as_little_as_a_few() -> None:
    words = [(i,) for i in range(5, 200_005)] + [(1, 1), (4, 0), (0, 2, 1)] + [(7, i) for i in range(100_000)]
    sampler = Sampler(Sampling(temperature=0.0, bad_words=tuple(words)), [], (), 0)
    logits = np.concatenate([LOGITS, np.full(200_000, 50.0, np.float32)])
    looked_at = 0

    class Counting(list[int]):
        def __getitem__(self, place: Any) -> Any:
            nonlocal looked_at
            looked_at += isinstance(place, slice)
            return super().__getitem__(place)

    sampler._output = Counting()
    assert [sampler.choose(logits)[0] for _ in range(4)] == [1, 2, 1, 2]
    assert looked_at < 10


def test_penalties_count_what_occurred() -> None:
    presence = Sampler(Sampling(temperature=0.0, presence_penalty=1.5), [], (), 0)
    assert [presence.choose(LOGITS)[0] for _ in range(3)] == [1, 2, 1]
    frequency = Sampler(Sampling(temperature=0.0, frequency_penalty=0.6), [], (), 0)
    assert [frequency.choose(LOGITS)[0] for _ in range(5)] == [1, 1, 2, 1, 2]
    repetition = Sampler(Sampling(temperature=0.0, repetition_penalty=2.0), [1], (), 0)
    assert repetition.choose(LOGITS)[0] == 2


def test_the_end_id_waits_for_min_tokens() -> None:
    sampler = Sampler(Sampling(temperature=0.0, min_tokens=2), [], {1}, 0)
    assert [sampler.choose(LOGITS)[0] for _ in range(3)] == [2, 2, 1]


def test_every_token_that_ends_a_request_waits_for_min_tokens() -> None:
    request = Request([5], 9, end_id=1, stop_words=[[2], [0, 4]], sampling=Sampling(temperature=0.0, min_tokens=2))
    assert request.sampling
    sampler = Sampler(request.sampling, [], request.ends, 0)
    assert [sampler.choose(LOGITS)[0] for _ in range(3)] == [0, 0, 1]


def test_log_probs_are_those_of_the_model() -> None:
    sampler = Sampler(Sampling(temperature=0.1, presence_penalty=9.0, log_probs=True), [], (), 0)
    for _ in range(3):
        token, log_prob = sampler.choose(LOGITS)
        assert log_prob == pytest.approx(log_softmax(LOGITS)[token])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": 1001.0}),
        *(("temperature", {"temperature": value}) for value in NOT_FINITE),
        ("runtime_top_k", {"top_k": -1}),
        ("runtime_top_p", {"top_p": 0.0}),
        ("runtime_top_p", {"top_p": 1.1}),
        *(("runtime_top_p", {"top_p": value}) for value in NOT_FINITE),
        ("min_p", {"min_p": 2.0}),
        *(("min_p", {"min_p": value}) for value in NOT_FINITE),
        *(("repetition_penalty", {"repetition_penalty": value}) for value in (0.0, -1.0, 1e-40, 101.0, *NOT_FINITE)),
        *(("presence_penalty", {"presence_penalty": value}) for value in (-101.0, 101.0, *NOT_FINITE)),
        *(("frequency_penalty", {"frequency_penalty": value}) for value in (-101.0, 101.0, *NOT_FINITE)),
        ("min_length", {"min_tokens": -1}),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, values: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=f"{name} is .* out of range: send "):
        Sampling(**values)


def fp32(value: float) -> float:
    """What of a number arrives in a tensor."""
    return torch.tensor(value, dtype=torch.float32).item()


def test_the_bounds_themselves_are_taken_also_as_fp32() -> None:
    for temperature in (0.0, 1000.0):
        Sampling(temperature=temperature)
    for low, high in ((0.01, -100.0), (100.0, 100.0)):
        Sampling(repetition_penalty=fp32(low), presence_penalty=fp32(high), frequency_penalty=fp32(high))


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-38, 1e-20, 0.000999])
def test_temperatures_that_would_make_infinities_are_greedy(temperature: float) -> None:
    sampling = Sampling(temperature=temperature, top_k=3)
    assert sampling.is_greedy
    assert set(drawn(sampling, 50)) == {1}


@pytest.mark.parametrize("temperature", [0.001, 0.01, 1000.0])
@pytest.mark.parametrize("penalty", [-100.0, 100.0])
def test_the_extremes_within_the_bounds_draw_tokens(temperature: float, penalty: float) -> None:
    for factor, top_p in ((0.01, 1e-50), (100.0, 1.0)):
        sampling = Sampling(fp32(temperature), 0, top_p, 1.0, factor, penalty, penalty)
        assert not sampling.is_greedy
        sampler = Sampler(sampling, [0, 1, 2], (), 0)
        assert all(0 <= sampler.choose(LOGITS)[0] < len(LOGITS) for _ in range(300))


@pytest.mark.parametrize("top_k", [0, 5])
def test_a_contract_request_is_greedy_below_the_threshold_alone(top_k: int) -> None:
    def read(temperature: float) -> Sampling | None:
        values = {"temperature": temperature, "runtime_top_k": top_k, "request_output_len": 1, "input_lengths": 1}
        inputs = {name: np.array([[value]], np.float32) for name, value in values.items()}
        return read_call({"input_ids": np.array([[5]], np.int32), **inputs}, True).requests[0].sampling

    assert read(0.0) is read(1e-40) is read(0.000999) is None  # and so with lookahead
    assert read(0.001) == Sampling(temperature=fp32(0.001), top_k=top_k)


@pytest.mark.parametrize(("top_k", "kept"), [(0, 1), (5, 5)])
def test_a_top_p_of_nothing_is_greedy_unless_it_stands_beside_a_top_k(top_k: int, kept: int) -> None:
    inputs = {
        **{name: np.array([[1]], np.int32) for name in ("input_ids", "input_lengths", "request_output_len")},
        "temperature": np.array([[2.0]], np.float32),
        "runtime_top_p": np.array([[-0.0]], np.float32),
        "runtime_top_k": np.array([[top_k]], np.int32),
    }
    sampling = read_call(inputs, True).requests[0].sampling
    assert (1 if sampling is None else sampling.top_k) == kept


def test_tokens_without_a_logit_cannot_be_forbidden(load_engine: LoadEngine) -> None:
    engine = load_engine()
    for sampling, reason in (
        (Sampling(bad_words=((1,), (2, 4096))), "bad_words_list has 4096"),
        (Sampling(bad_words=((-1,),)), "bad_words_list has -1"),
        (Sampling(min_tokens=1), "end_id has 4096"),
        (Sampling(logit_bias=((4096, 1.0),)), "logit_bias has 4096"),
    ):
        with pytest.raises(RequestError, match=f"{reason}, which is out of range: token ids go from 0 to 4095"):
            engine.enqueue(Request(PROMPT, 5, end_id=4096, sampling=sampling))


def test_no_more_tokens_are_demanded_than_are_asked_for_or_fit(load_engine: LoadEngine) -> None:
    engine = load_engine()
    for least, most, reason in (
        (6, 5, "min_length is 6, above request_output_len, which is 5"),
        (145, 1000, "min_length is 145, and 144 tokens fit behind the prompt"),
    ):
        request = Request([1] * 256, most, sampling=Sampling(min_tokens=least))
        with pytest.raises(RequestError, match=reason):
            engine.enqueue(request)
    allowed = Request(PROMPT, 5, sampling=Sampling(min_tokens=5))
    assert len(generate(engine, [allowed])[0].token_ids) == 5


@pytest.mark.parametrize("decay", [0.5, 0.0, float("nan")])
def test_a_top_p_that_decays_is_refused(decay: float) -> None:
    ones = {name: np.array([[1]], np.int32) for name in ("input_ids", "input_lengths", "request_output_len")}
    assert read_call({**ones, "runtime_top_p_decay": np.array([[1.0]], np.float32)}, True)
    with pytest.raises(RequestError, match="runtime_top_p_decay must be 1"):
        read_call({**ones, "runtime_top_p_decay": np.array([[decay]], np.float32)}, True)


@pytest.mark.parametrize("after", [0, 3])
def test_a_sampler_that_fails_ends_its_own_request_alone(
    load_engine: LoadEngine, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    engine = load_engine()
    bystanders = [Request(PROMPT, 40), Request(PROMPT, 40, sampling=Sampling(temperature=1.0), seed=3)]
    alone = [generate(engine, [request])[0].token_ids for request in bystanders]
    real, broken = Sampler._draw, Sampling(temperature=1.0, top_k=7)

    def draw(self: Sampler, logits: Floats) -> int:
        if self._sampling is broken and len(self._output) == after:
            raise RuntimeError("nothing to draw from")
        return real(self, logits)

    monkeypatch.setattr(Sampler, "_draw", draw)
    failed, *others = generate(engine, [Request(PROMPT, 40, sampling=broken), *bystanders])
    assert failed.error == "Encountered an error in the decoding step: nothing to draw from"
    assert len(failed.token_ids) == after
    assert [g.token_ids for g in others] == alone
    assert [g.error for g in others] == [None, None]
    assert engine.statistics().active_requests == 0


def test_a_request_that_forbids_every_token_fails_alone(load_engine: LoadEngine) -> None:
    engine = load_engine()
    nothing = Sampling(temperature=1.0, bad_words=tuple((i,) for i in range(4096)))
    alone = generate(engine, [Request(PROMPT, 40)])[0].token_ids
    failed, other = generate(engine, [Request(PROMPT, 40, sampling=nothing), Request(PROMPT, 40)])
    assert failed.error
    assert (other.token_ids, other.error) == (alone, None)


def test_the_same_seed_gives_the_same_text_and_another_seed_another(load_engine: LoadEngine) -> None:
    engine = load_engine(EMBEDDED)
    requests = [Request(PROMPT, 40, sampling=Sampling(temperature=1.0), seed=seed) for seed in (1, 1, 2)]
    one, same, other = (g.token_ids for g in generate(engine, requests))
    assert one == same != other
    assert generate(engine, requests[:1])[0].token_ids == one  # alone as in a batch


def test_sampling_beside_lookahead_changes_neither(load_engine: LoadEngine) -> None:
    engine = load_engine(EMBEDDED)
    sampled, greedy = Request(PROMPT, 40, sampling=Sampling(top_k=5), seed=3), Request(PROMPT, 40)
    alone = [generate(engine, [request])[0].token_ids for request in (sampled, greedy)]
    assert [g.token_ids for g in generate(engine, [sampled, greedy])] == alone


def test_temperature_zero_with_nothing_else_is_greedy(load_engine: LoadEngine) -> None:
    engine = load_engine()
    cold, plain = generate(
        engine, [Request(PROMPT, 40, sampling=Sampling(temperature=0.0)), Request(PROMPT, 40, lookahead=PLAIN)]
    )
    assert cold.token_ids == plain.token_ids


def test_log_probs_come_one_a_token_and_the_end_id_has_none(load_engine: LoadEngine) -> None:
    engine = load_engine()
    free = generate(engine, [Request(PROMPT, 40)])[0].token_ids
    for streaming in (True, False):
        sampling = Sampling(temperature=0.0, log_probs=True)
        request = Request(PROMPT, 40, end_id=free[12], sampling=sampling, streaming=streaming)
        generation = generate(engine, [request])[0]
        assert generation.finish_reason is FinishReason.END_ID
        assert len(generation.log_probs) == len(generation.token_ids)
        assert all(log_prob <= 0 for log_prob in generation.log_probs)
