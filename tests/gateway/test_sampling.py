"""Which sampling fields reach the engine, and when they are refused."""

import pytest

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.fields import Engine
from nimble_coder.gateway.requests.sampling import contract_inputs, samples
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.gateway.requests.schemas.completion import CompletionRequest
from nimble_coder.gateway.requests.schemas.llama import InfillRequest, LlamaRequest
from nimble_coder.gateway.requests.schemas.sampling import OpenAISampling, SamplingFields

SAMPLED = SamplingFields(temperature=0.7, top_p=0.9, top_k=20, seed=2**64 - 1, repetition_penalty=1.1)


def inputs(asked: SamplingFields, engine_samples: bool = True, strict: bool = False, copy: int = 0) -> dict[str, float]:
    engine = Engine.PORTABLE if engine_samples else Engine.GREEDY
    return {name: value for name, _, value in contract_inputs(asked, engine, strict, copy)}


def test_a_temperature_brings_everything_along() -> None:
    assert inputs(SAMPLED) == {
        "repetition_penalty": 1.1,
        "temperature": 0.7,
        "random_seed": 2**64 - 1,
        "runtime_top_p": 0.9,
        "runtime_top_k": 20,
    }


def test_copies_have_seeds_of_their_own() -> None:
    assert [inputs(SAMPLED, copy=copy)["random_seed"] for copy in (0, 1)] == [2**64 - 1, 0]
    unseeded = SamplingFields(temperature=1.0)
    assert inputs(unseeded)["random_seed"] != inputs(unseeded)["random_seed"]


@pytest.mark.parametrize(
    "asked",
    [
        SamplingFields(temperature=1.0, seed=-1),
        LlamaRequest(temperature=1.0, seed=-1),
        InfillRequest(temperature=1.0, seed=2**32 - 1),
    ],
)
def test_a_seed_that_stands_for_none_gives_another_text_each_time(asked: SamplingFields) -> None:
    assert inputs(asked)["random_seed"] != inputs(asked)["random_seed"]
    assert inputs(SamplingFields(temperature=1.0, seed=2**32 - 1))["random_seed"] == 2**32 - 1
    assert inputs(SamplingFields(temperature=1.0, seed=-2))["random_seed"] == 2**64 - 2


@pytest.mark.parametrize("temperature", [None, 0.0, 1e-40, 0.000999])
def test_without_one_or_with_next_to_none_decoding_is_greedy(temperature: float | None) -> None:
    assert not samples(SamplingFields(temperature=temperature))
    assert inputs(SamplingFields(temperature=temperature, top_p=0.9, top_k=40, seed=1)) == {}
    assert inputs(SamplingFields(temperature=0.5, top_k=1)) == {}


@pytest.mark.parametrize("top_p", [0.0, -0.0, 1e-50, 1e-40, 9e-7])
def test_a_share_of_nothing_is_the_most_likely_token(top_p: float) -> None:
    assert not samples(SamplingFields(temperature=2.0, top_p=top_p))
    assert inputs(SamplingFields(temperature=2.0, top_p=top_p, repetition_penalty=1.1)) == {"repetition_penalty": 1.1}


@pytest.mark.parametrize("temperature", [0.001, 0.01])
def test_from_the_threshold_on_it_samples(temperature: float) -> None:
    assert samples(SamplingFields(temperature=temperature))
    assert inputs(SamplingFields(temperature=temperature, seed=1)) == {"temperature": temperature, "random_seed": 1}


def test_neutral_penalties_are_not_sent() -> None:
    assert inputs(SamplingFields(repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)) == {}
    assert inputs(SamplingFields(presence_penalty=0.5)) == {"presence_penalty": 0.5}


def test_a_greedy_engine_is_sent_nothing_and_strictly_nothing_is_ignored() -> None:
    assert inputs(SAMPLED, engine_samples=False) == {}
    assert inputs(SamplingFields(temperature=0.0, top_p=0.9), engine_samples=False, strict=True) == {}
    for asked in (SAMPLED, SamplingFields(frequency_penalty=1.0)):
        with pytest.raises(ApiError, match="decodes greedily"):
            inputs(asked, engine_samples=False, strict=True)


def test_logprobs_only_where_the_engine_has_them() -> None:
    assert inputs(OpenAISampling(logprobs=1)) == {"return_log_probs": True}
    assert inputs(OpenAISampling(logprobs=0)) == {"return_log_probs": True}
    assert inputs(OpenAISampling(logprobs=False)) == {}
    assert inputs(OpenAISampling(logprobs=1, min_tokens=2)) == {"return_log_probs": True, "min_length": 2}
    for engine, asked in (
        (Engine.GREEDY, OpenAISampling(logprobs=1)),
        (Engine.SAMPLING, OpenAISampling(logprobs=0, min_tokens=2)),
    ):
        with pytest.raises(ApiError, match="logprobs are not available"):
            contract_inputs(asked, engine, False, 0)


def test_alternatives_and_a_prompts_own_are_refused_by_engines_that_have_none() -> None:
    chosen = OpenAISampling(logprobs=0)
    assert contract_inputs(chosen, Engine.SAMPLING, False, 0) == (("return_log_probs", "BOOL", True),)
    more = [OpenAISampling(logprobs=1), CompletionRequest(echo=True, logprobs=0)]
    for asked in (*more, ChatRequest(messages=[], logprobs=True, top_logprobs=1)):
        assert contract_inputs(asked, Engine.PORTABLE, False, 0)
        with pytest.raises(ApiError, match="chosen tokens' log probabilities alone") as caught:
            contract_inputs(asked, Engine.SAMPLING, False, 0)
        assert (caught.value.status, caught.value.code) == (400, "unsupported")
