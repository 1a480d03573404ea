"""A request's sampling fields as inputs of the `tensorrt_llm` contract.

No temperature, or one below the engine's `GREEDY_BELOW`, means greedy decoding here, whatever else is sent: editors
send top_k and top_p with every infill. So does a top_p of 0. A TensorRT lookahead engine decodes greedily in any case;
the portable one samples, with and without lookahead.
"""

import secrets
from collections.abc import Iterator

from nimble_coder.contract.bounds import GREEDY_BELOW, GREEDY_SHARE
from nimble_coder.contract.fields import OTHERWISE_READ, SCALARS
from nimble_coder.contract.scalar import Effect, Scalar
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.fields import Engine
from nimble_coder.gateway.requests.schemas.sampling import OpenAISampling, SamplingFields

Input = tuple[str, str, float]


def contract_inputs(asked: SamplingFields, engine: Engine, strict: bool, copy: int) -> tuple[Input, ...]:
    """(name, Triton datatype, value) for the `copy`-th answer; raises `ApiError` for what the engine cannot do.

    `strict` refuses what a greedy engine would ignore.
    """
    wants_log_probs = isinstance(asked, OpenAISampling) and asked.wants_log_probs
    # Elsewhere the gateway passes over end ids for `min_tokens`, and the engine's probabilities belong to these too.
    if wants_log_probs and (engine is Engine.GREEDY or (asked.min_tokens and engine is not Engine.PORTABLE)):
        text = "logprobs are not available with this engine's lookahead decoding, nor with min_tokens: leave one out"
        raise ApiError(400, text, "unsupported", "logprobs")
    wants_more = isinstance(asked, OpenAISampling) and (asked.alternatives or asked.scores_prompt)
    if wants_log_probs and wants_more and engine is not Engine.PORTABLE:
        text = "this engine has the chosen tokens' log probabilities alone: ask for no alternatives, and not for echo"
        raise ApiError(400, text, "unsupported", "logprobs")
    log_probs: tuple[Input, ...] = (("return_log_probs", "BOOL", True),) if wants_log_probs else ()
    numbers = tuple((s.name, s.datatype, value) for s, value in given_numbers(asked) if s.datatype)
    if engine is Engine.PORTABLE and asked.min_tokens:
        numbers += (("min_length", "INT32", asked.min_tokens),)
    if engine is Engine.GREEDY:
        if strict and (samples(asked) or numbers):
            text = "this engine decodes greedily: send temperature 0 and no penalties"
            raise ApiError(400, text, "greedy_only", "temperature")
        return ()
    if not samples(asked):
        return numbers + log_probs
    seed = secrets.randbits(32) if asked.own_seed is None else asked.own_seed
    inputs: list[Input] = [
        *numbers,
        *log_probs,
        ("temperature", "FP32", asked.temperature or 0.0),
        ("random_seed", "UINT64", (seed + copy) % 2**64),
    ]
    if asked.top_p is not None:
        inputs.append(("runtime_top_p", "FP32", asked.top_p))
    if asked.top_k is not None and asked.top_k > 0:
        inputs.append(("runtime_top_k", "INT32", asked.top_k))
    return tuple(inputs)


def samples(asked: SamplingFields) -> bool:
    """Whether the request asks for anything but the most likely token."""
    is_cut_to_one = asked.top_k == 1 or (asked.top_p is not None and asked.top_p < GREEDY_SHARE)
    return (asked.temperature or 0.0) >= GREEDY_BELOW and not is_cut_to_one


def given_numbers(asked: SamplingFields) -> Iterator[tuple[Scalar, float]]:
    """Those of the contract's penalties and cuts that change something; clients send the neutral values always."""
    for name, scalar in SCALARS.items():
        if scalar.effect is None or name in OTHERWISE_READ:
            continue
        value = getattr(asked, name)  # a body and the contract call it alike
        if value is not None and value != scalar.neutral and (scalar.effect is Effect.LOGITS or samples(asked)):
            yield scalar, value
