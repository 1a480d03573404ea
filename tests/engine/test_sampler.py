"""Sampling parameters do what they say, reproducibly, beside lookahead requests in one batch."""

from collections import Counter

import pytest
import torch

from build_engine.lookahead import PLAIN
from nimble_coder.engine.generate import generate
from nimble_coder.engine.protocol import FinishReason, Request, RequestError, Sampling
from nimble_coder.engine.sampler import Sampler
from tests.conftest import EMBEDDED
from tests.engine.conftest import LoadEngine

PROMPT = [5, 17, 900, 33, 5, 17, 900, 34, 12, 5, 17]
LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0, 0.5])


def drawn(sampling: Sampling, count: int = 4000) -> Counter[int]:
    """How often each token is drawn from LOGITS by independent samplers."""
    samplers = (Sampler(sampling, [], None, seed) for seed in range(count))
    return Counter(sampler.choose(LOGITS)[0] for sampler in samplers)


def test_tokens_are_drawn_with_their_probabilities() -> None:
    found = drawn(Sampling(temperature=1.0))
    for token, probability in enumerate(LOGITS.softmax(-1).tolist()):
        assert found[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_temperature_sharpens() -> None:
    expected = (LOGITS / 0.5).softmax(-1)[1].item()
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


def test_a_bad_word_of_two_tokens_is_never_completed() -> None:
    sampler = Sampler(Sampling(temperature=0.0, bad_words=((1, 1),)), [], None, 0)
    assert [sampler.choose(LOGITS)[0] for _ in range(4)] == [1, 2, 1, 2]


def test_penalties_count_what_occurred() -> None:
    presence = Sampler(Sampling(temperature=0.0, presence_penalty=1.5), [], None, 0)
    assert [presence.choose(LOGITS)[0] for _ in range(3)] == [1, 2, 1]
    frequency = Sampler(Sampling(temperature=0.0, frequency_penalty=0.6), [], None, 0)
    assert [frequency.choose(LOGITS)[0] for _ in range(5)] == [1, 1, 2, 1, 2]
    repetition = Sampler(Sampling(temperature=0.0, repetition_penalty=2.0), [1], None, 0)
    assert repetition.choose(LOGITS)[0] == 2


def test_the_end_id_waits_for_min_tokens() -> None:
    sampler = Sampler(Sampling(temperature=0.0, min_tokens=2), [], 1, 0)
    assert [sampler.choose(LOGITS)[0] for _ in range(3)] == [2, 2, 1]


def test_log_probs_are_those_of_the_model() -> None:
    sampler = Sampler(Sampling(temperature=0.1, presence_penalty=9.0, log_probs=True), [], None, 0)
    for _ in range(3):
        token, log_prob = sampler.choose(LOGITS)
        assert log_prob == pytest.approx(LOGITS.log_softmax(-1)[token].item())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", {"temperature": -0.1}),
        ("runtime_top_k", {"top_k": -1}),
        ("runtime_top_p", {"top_p": 0.0}),
        ("runtime_top_p", {"top_p": 1.1}),
        ("min_p", {"min_p": 2.0}),
        ("repetition_penalty", {"repetition_penalty": 0.0}),
        ("min_length", {"min_tokens": -1}),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, values: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=f"{name} is .* out of range"):
        Sampling(**values)  # type: ignore[arg-type]


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
