"""Drafting changes no draw: a sampled output is that of plain sampling, token by token, whatever was drafted."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.contract.request import Request, Sampling
from nimble_coder.engine.budget import StepCosts
from nimble_coder.engine.generate import Generation, generate
from nimble_coder.engine.likely import Floats, LikelyRows
from nimble_coder.engine.native import HostLogits
from nimble_coder.engine.torch_engine import TorchEngine
from nimble_coder.engine.torch_logits import likely_rows
from tests.engine.conftest import OWN, FreeRows

PROMPT = [300 + i % 7 for i in range(40)]
KINDS = {
    "temperature": Sampling(temperature=0.8),
    "hot": Sampling(temperature=1.2),
    "top k": Sampling(temperature=1.0, top_k=5),
    "top p": Sampling(temperature=1.2, top_p=0.7),
    "min p": Sampling(temperature=1.2, min_p=0.1),
    "all cuts": Sampling(temperature=1.1, top_k=40, top_p=0.9, min_p=0.02),
    "penalties": Sampling(temperature=0.9, repetition_penalty=1.2, presence_penalty=0.4, frequency_penalty=0.3),
    "greedy with a penalty": Sampling(temperature=0.0, frequency_penalty=0.5),
    "bad words": Sampling(temperature=0.7, bad_words=((288,), (2603, 7))),
    "bias": Sampling(temperature=0.9, logit_bias=((288, -100.0), (7, 4.0))),
    "min tokens": Sampling(temperature=1.0, min_tokens=20),
    "log probabilities": Sampling(temperature=0.9, log_probs=True),
}


WAYS: dict[str, dict[str, Any]] = {"lookahead": {"lookahead": OWN}, "windowed": {"drafting": "windowed"}}


@pytest.fixture(scope="module", autouse=True)
def free_steps() -> Iterator[None]:
    """The file's engine drafts all that it can, however busy the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepCosts, "measure", FreeRows.measured)
        yield


def plainly(engine: TorchEngine, requests: list[Request]) -> list[Generation]:
    return generate(engine, [replace(request, lookahead=PLAIN, drafting="") for request in requests])


def with_and_without(engine: TorchEngine, requests: list[Request]) -> tuple[list[Generation], list[Generation]]:
    drafted = [replace(request, lookahead=request.lookahead or OWN) for request in requests]
    return plainly(engine, requests), generate(engine, drafted)


def sort_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU does it."""

    def likely(self: HostLogits, temperatures: Floats) -> LikelyRows:
        return likely_rows(torch.from_numpy(self.logits), temperatures)

    monkeypatch.setattr(HostLogits, "likely", likely)


@pytest.fixture(params=["row by row", "together"])
def sorting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CPUs, or as on GPUs."""
    if request.param == "together":
        sort_together(monkeypatch)


@pytest.mark.parametrize("sampling", KINDS.values(), ids=KINDS)
def test_a_sampled_output_is_that_of_plain_sampling(engine: TorchEngine, sampling: Sampling) -> None:
    accepted = dict.fromkeys(WAYS, 0)
    for seed in range(2):
        request = Request(PROMPT, 60, seed=seed, sampling=sampling, end_id=0)
        (plain,) = plainly(engine, [request])
        for name, way in WAYS.items():
            (drafted,) = generate(engine, [replace(request, **way)])
            assert drafted.token_ids == plain.token_ids, name
            assert drafted.log_probs == plain.log_probs
            assert drafted.finish_reason == plain.finish_reason
            assert drafted.metrics is not None
            accepted[name] += drafted.metrics.total_accepted_draft_tokens
    assert all(accepted.values()), accepted  # or nothing was shown


@pytest.mark.usefixtures("sorting")
def test_also_in_batches_beside_greedy_requests_and_with_prompts_in_the_cache(engine: TorchEngine) -> None:
    requests = [
        Request(PROMPT, 50, seed=1, sampling=KINDS["temperature"]),
        Request(PROMPT, 50),
        Request(PROMPT[:20], 50, seed=2, sampling=KINDS["all cuts"], lookahead=LookaheadConfig(1, 4, 1)),
        Request(PROMPT, 50, seed=1, sampling=KINDS["temperature"], lookahead=LookaheadConfig(3, 3, 3)),
        Request(PROMPT, 50, seed=1, sampling=KINDS["temperature"], drafting="windowed"),
    ]
    plain, drafted = with_and_without(engine, requests)
    assert [each.token_ids for each in drafted] == [each.token_ids for each in plain]
    assert drafted[0].token_ids == drafted[3].token_ids == drafted[4].token_ids
    again = generate(engine, requests)
    assert [each.token_ids for each in again] == [each.token_ids for each in plain]


@pytest.mark.parametrize("sampling", KINDS.values(), ids=KINDS)
def test_rows_sorted_together_draw_what_each_alone_draws(
    engine: TorchEngine, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Request(PROMPT, 40, seed=seed, sampling=sampling, end_id=0) for seed in range(3)]
    alone = generate(engine, requests)
    sort_together(monkeypatch)
    assert [each.token_ids for each in generate(engine, requests)] == [each.token_ids for each in alone]


def test_a_stop_word_within_accepted_drafts_ends_the_output_where_plain_sampling_does(engine: TorchEngine) -> None:
    free = generate(engine, [Request(PROMPT, 60, seed=3, sampling=KINDS["temperature"])])[0].token_ids
    stops = [[free[20], free[21]], [free[9]]]
    for stop in stops:
        request = Request(PROMPT, 60, seed=3, sampling=KINDS["log probabilities"], stop_words=[stop])
        (plain,), (drafted,) = with_and_without(engine, [request])
        assert drafted.token_ids == plain.token_ids
        assert len(drafted.log_probs) == len(drafted.token_ids)
