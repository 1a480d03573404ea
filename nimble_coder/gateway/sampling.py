"""A request's sampling fields as inputs of the `tensorrt_llm` contract.

A lookahead engine decodes greedily whatever it is sent; an engine that samples finds here what it needs.
"""

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.schemas import OpenAISampling, Sampling

Input = tuple[str, str, float]


def contract_inputs(asked: Sampling, strict: bool) -> tuple[Input, ...]:
    """(name, Triton datatype, value) of what was given; raises `ApiError` for what no engine here can do.

    `strict` refuses whatever greedy decoding cannot honour.
    """
    if isinstance(asked, OpenAISampling) and asked.logprobs:
        text = "logprobs are not available: lookahead decoding does not compute them; leave the field out"
        raise ApiError(400, text, "unsupported", "logprobs")
    if strict:
        refuse_sampling(asked)
    given: list[tuple[str, str, float | None]] = [
        ("temperature", "FP32", asked.temperature or None),  # 0 means greedy, which is no temperature
        ("runtime_top_p", "FP32", asked.top_p or None),
        ("runtime_top_k", "INT32", asked.top_k if asked.top_k is not None and asked.top_k > 0 else None),
        ("repetition_penalty", "FP32", neutral(asked.repetition_penalty, 1.0)),
        ("presence_penalty", "FP32", neutral(asked.presence_penalty, 0.0)),
        ("frequency_penalty", "FP32", neutral(asked.frequency_penalty, 0.0)),
        ("random_seed", "UINT64", asked.seed % 2**64 if asked.seed is not None else None),
    ]
    return tuple((name, datatype, value) for name, datatype, value in given if value is not None)


def neutral(value: float | None, nothing: float) -> float | None:
    """None for the value that changes nothing: clients send it always."""
    return None if value == nothing else value


def refuse_sampling(asked: Sampling) -> None:
    """Raises `ApiError` for fields that greedy decoding cannot honour."""
    penalties = (asked.repetition_penalty, asked.presence_penalty, asked.frequency_penalty)
    greedy = not asked.temperature or asked.top_k == 1
    if not greedy or any(penalty not in (None, 0.0, 1.0) for penalty in penalties):
        text = (
            "this service decodes greedily: send temperature 0 and no penalties, or switch NIMBLE_STRICT_SAMPLING off"
        )
        raise ApiError(400, text, "greedy_only", "temperature")
