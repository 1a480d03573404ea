"""The `tensorrt_llm` contract between tensors and the engine's requests and responses.

Names, dtypes, shapes and meaning: all_models/inflight_batcher_llm/tensorrt_llm and inflight_batcher_llm/src of
triton-inference-server/tensorrtllm_backend v0.19.0. Arrays include the batch dimension B. What the contract has no
tensor for travels as request parameters: `min_p`, a number, and as JSON `logit_bias`, biases by token id.
`top_logprobs` is how many of the most likely tokens `generation_logits` names for each token, as pairs of id and log
probability, `[B, tokens, top, 2]`; with `prompt_logprobs` true, `context_logits` has a row for each token of the prompt
but the first: its own log probability and such pairs, `[B, tokens - 1, 1 + 2 top]`. NVIDIA's two logits themselves are
not available here.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from build_engine.lookahead import LookaheadConfig, LookaheadError
from nimble_coder.contract.fields import (
    CALL,
    DRAFT_POOL,
    DRAFT_TOKENS,
    DRAFTING,
    LOOKAHEAD,
    NO_CUT,
    OTHERWISE_READ,
    OWNER,
    SCALARS,
)
from nimble_coder.contract.request import Guide, GuideType, Request, RequestError, Sampling
from nimble_coder.contract.response import PerfMetrics, Response
from nimble_coder.contract.scalar import Scalar

Array = NDArray[np.generic]
Number = TypeVar("Number", float, int, bool)

REQUIRED = ("input_ids", "input_lengths", "request_output_len")
UNSUPPORTED = (
    "encoder_input_features",
    "draft_input_ids",
    "draft_logits",
    "decoder_input_ids",
    "embedding_bias",
    "prompt_embedding_table",
    "cross_attention_mask",
    "mrope_rotary_cos_sin",
    "lora_weights",
    "lora_config",
    "lora_task_id",
    "context_phase_params",
)
UNSUPPORTED_FLAGS = ("return_context_logits", "return_generation_logits")
ONE = np.ones(1)
MAX_SEQUENCES = 64
LONGEST_NAME = 64
NO_PARAMETERS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True)
class Call:
    """One Triton request: requests to the engine, `sequences` for each row of its batch, and how to answer."""

    requests: list[Request]
    sequences: int
    exclude_input: bool
    return_perf_metrics: bool
    name: str = ""
    """The gateway's, by which it ends the request."""


def is_stop(inputs: Mapping[str, Array]) -> bool:
    """True for a request that only stops the running request of the same Triton request id."""
    return _flag(inputs, "stop", False)


def read_call(
    inputs: Mapping[str, Array], exclude_input_default: bool, parameters: Mapping[str, object] = NO_PARAMETERS
) -> Call:
    """The engine requests of a Triton request; raises `RequestError` naming the input that is wrong."""
    for name in REQUIRED:
        if name not in inputs:
            raise RequestError(f"{name} is not present in the request.")
    for name in UNSUPPORTED:
        if name in inputs and inputs[name].size:
            raise RequestError(f"input {name} is not supported by this engine; leave it out")
    for name in UNSUPPORTED_FLAGS:
        if name in inputs and inputs[name].any():
            raise RequestError(f"{name} is not supported by this engine; leave it out or send false")
    if any(value != 1 for value in inputs.get("beam_width", ONE).reshape(-1)):
        raise RequestError("beam_width must be 1: this engine has no beam search")
    if any(value != 1 for value in inputs.get("runtime_top_p_decay", ONE).reshape(-1)):
        raise RequestError("runtime_top_p_decay must be 1, or it is not supported: a top-p holds for all tokens here")
    sequences = int(_shared(inputs, "num_return_sequences", 1))
    if not 1 <= sequences <= MAX_SEQUENCES:
        raise RequestError(f"num_return_sequences is {sequences}: ask for 1 to {MAX_SEQUENCES}")
    batch, streaming = len(inputs["input_ids"]), _flag(inputs, "streaming", False)
    if streaming and batch > 1:
        raise RequestError("a streaming request carries one prompt: send the prompts as separate requests")
    return Call(
        [_read_row(inputs, parameters, row, i, streaming) for row in range(batch) for i in range(sequences)],
        sequences,
        exclude_input=_flag(inputs, "exclude_input_in_output", exclude_input_default),
        return_perf_metrics=_flag(inputs, "return_perf_metrics", False),
        name=str(parameters.get(CALL, "")),
    )


def _read_row(
    inputs: Mapping[str, Array], parameters: Mapping[str, object], row: int, sequence: int, streaming: bool
) -> Request:
    ids, length = inputs["input_ids"][row], _number(inputs, "input_lengths", row, 0)
    if not 0 <= length <= len(ids):
        raise RequestError(f"input_lengths is {length}, but input_ids has {len(ids)} tokens")
    end_id = _number(inputs, "end_id", row, -1)
    return Request(
        input_ids=[int(i) for i in ids[:length]],
        max_tokens=_number(inputs, "request_output_len", row, 0),
        end_id=None if end_id < 0 else end_id,
        stop_words=_read_words(inputs, "stop_words_list", row),
        lookahead=_read_lookahead(inputs, row),
        draft_tokens=_read_parameter(parameters, DRAFT_TOKENS, int) if DRAFT_TOKENS in parameters else None,
        drafting=str(parameters.get(DRAFTING, ""))[:LONGEST_NAME],
        draft_pool=str(parameters.get(DRAFT_POOL, "")),
        owner=str(parameters.get(OWNER, "")),
        streaming=streaming,
        sampling=_read_sampling(inputs, parameters, row),
        guide=_read_guide(inputs, row),
        seed=_number(inputs, "random_seed", row, 0) + sequence,
    )


def _read_sampling(inputs: Mapping[str, Array], parameters: Mapping[str, object], row: int) -> Sampling | None:
    """How to sample, or None for greedy decoding.

    As in TensorRT-LLM, top-k 1 is greedy, nothing given is greedy, and so is a top-p of 0, unless it stands beside a
    top-k and means nothing (`setupTopKRuntimeArgs`); here a temperature alone samples too, from `GREEDY_BELOW` on.
    """
    top_k, top_p = _number(inputs, "runtime_top_k", row, 0), _decimal(inputs, "runtime_top_p", row, 1.0)
    if top_p == 0:
        top_k, top_p = top_k or 1, 1.0
    temperature = _decimal(inputs, "temperature", row, 1.0 if top_k > 1 or 0 < top_p < 1 else 0.0)
    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        bad_words=tuple(tuple(word) for word in _read_words(inputs, "bad_words_list", row)),
        logit_bias=_read_bias(parameters),
        **{
            name: _read_scalar(inputs, parameters, row, SCALARS[name]) for name in SCALARS if name not in OTHERWISE_READ
        },
    )
    # What the greedy choice cannot depend on does not cost a request its lookahead.
    is_plain = replace(sampling, temperature=0.0, **NO_CUT) == Sampling(temperature=0.0)  # type: ignore[arg-type]
    return None if sampling.is_greedy and is_plain else sampling


def _read_scalar(
    inputs: Mapping[str, Array], parameters: Mapping[str, object], row: int, scalar: Scalar
) -> Any:  # of the attribute's type, which `Sampling` says
    kind = type(scalar.neutral)
    if scalar.datatype is None:
        return _read_parameter(parameters, scalar.name, kind) if scalar.name in parameters else scalar.neutral
    if scalar.datatype == "BOOL":
        return _flag(inputs, scalar.name, bool(scalar.neutral))
    return kind(inputs[scalar.name].reshape(-1)[row]) if scalar.name in inputs else scalar.neutral


def _read_guide(inputs: Mapping[str, Array], row: int) -> Guide | None:
    """The form that a row is held to: the contract's two inputs, a text each."""
    kind, text = (_text(inputs, f"guided_decoding_{name}", row) for name in ("guide_type", "guide"))
    if not kind and not text:
        return None
    try:
        return Guide(GuideType(kind), text)
    except ValueError:
        known = ", ".join(each.value for each in GuideType)
        raise RequestError(f"guided_decoding_guide_type is {kind[:80]!r}: send one of {known}") from None


def _text(inputs: Mapping[str, Array], name: str, row: int) -> str:
    """A text of UTF-8, empty where there is none; raises `RequestError`."""
    if name not in inputs or not inputs[name].size:
        return ""
    value = inputs[name].reshape(-1)[row]
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        raise RequestError(f"{name} is not valid UTF-8") from None


def _read_parameter(parameters: Mapping[str, object], name: str, kind: type[Number]) -> Number:
    """A request parameter that is a number, maybe as text, or a flag, for which 1 and 0 stand too; raises
    `RequestError`."""
    value = parameters[name]
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if kind is bool and value in (False, True):
        return kind(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RequestError(f"{name} is not a number, and out of range: a request parameter of that name has to be one")
    if kind is not float and (kind is bool or value != int(value)):
        wanted = "true or false" if kind is bool else "a whole number"
        raise RequestError(f"{name} is {value}, which is out of range: send {wanted}")
    return kind(value)


def _read_bias(parameters: Mapping[str, object]) -> tuple[tuple[int, float], ...]:
    """`logit_bias`: `{"<token id>": <bias>, ...}` as text."""
    try:
        value = json.loads(str(parameters.get("logit_bias", "{}")))
        if all(type(bias) in (int, float) for bias in value.values()):
            return tuple((int(token), float(bias)) for token, bias in value.items())
    except (ValueError, AttributeError, RecursionError, OverflowError):
        pass
    raise RequestError("logit_bias is not a JSON object of numbers by token id")


def _read_words(inputs: Mapping[str, Array], name: str, row: int) -> list[list[int]]:
    """TensorRT-LLM's word list, `[B, 2, n]`: ids end to end, and below them where each word ends; -1 pads."""
    if name not in inputs or not inputs[name].size:
        return []
    ids, ends = inputs[name][row]
    words, start = [], 0
    for end in (int(e) for e in ends if e >= 0):
        if not start < end <= len(ids):
            raise RequestError(f"{name} has a word from {start} to {end} of {len(ids)} ids")
        words.append([int(i) for i in ids[start:end]])
        start = end
    return words


def _read_lookahead(inputs: Mapping[str, Array], row: int) -> LookaheadConfig | None:
    given = [name for name in LOOKAHEAD if name in inputs]
    if not given:
        return None
    if len(given) < len(LOOKAHEAD):
        missing = next(name for name in LOOKAHEAD if name not in inputs)
        raise RequestError(f"{missing} is missing: send all three lookahead inputs, or none")
    w, n, g = (_number(inputs, name, row, 0) for name in LOOKAHEAD)
    try:
        return LookaheadConfig(w, n, g)
    except LookaheadError as error:
        raise RequestError(str(error)) from None


def _number(inputs: Mapping[str, Array], name: str, row: int, default: int) -> int:
    return int(inputs[name].reshape(-1)[row]) if name in inputs else default


def _decimal(inputs: Mapping[str, Array], name: str, row: int, default: float) -> float:
    return float(inputs[name].reshape(-1)[row]) if name in inputs else default


def _flag(inputs: Mapping[str, Array], name: str, default: bool) -> bool:
    return bool(_shared(inputs, name, default))


def _shared(inputs: Mapping[str, Array], name: str, default: int) -> int:
    """What holds for all rows of a batch; raises `RequestError` where they say different things."""
    values = inputs[name].reshape(-1) if name in inputs else ONE[:0]
    if any(value != values[0] for value in values):
        raise RequestError(f"{name} is not the same in all rows of the batch: send the prompts as separate requests")
    return int(values[0]) if values.size else default


def write_response(call: Call, index: int, response: Response) -> dict[str, Array]:
    """The output tensors of one engine response to the call's request of that index."""
    ids = response.token_ids
    request = call.requests[index]
    if not request.streaming and not call.exclude_input:
        ids = [*request.input_ids, *ids]
    outputs: dict[str, Array] = {
        "output_ids": np.array([[ids]], np.int32),
        "sequence_length": np.array([[len(ids)]], np.int32),
        "batch_index": np.array([[index // call.sequences]], np.int32),
        "sequence_index": np.array([[index % call.sequences]], np.int32),
    }
    if response.log_probs is not None:
        outputs["output_log_probs"] = np.array([[response.log_probs]], np.float32)
        outputs["cum_log_probs"] = np.array([[response.cum_log_prob]], np.float32)
    if response.top_log_probs:
        outputs["generation_logits"] = np.array([response.top_log_probs], np.float32)
    if response.prompt_log_probs:
        rows = [[own, *(part for pair in top for part in pair)] for own, top in response.prompt_log_probs]
        outputs["context_logits"] = np.array([rows], np.float32)
    if call.return_perf_metrics and response.metrics:
        outputs |= _write_metrics(response.metrics)
    return outputs


def _write_metrics(metrics: PerfMetrics) -> dict[str, Array]:
    counts = ("kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks")
    times = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
    drafts = ("total_accepted_draft_tokens", "total_draft_tokens")
    return {
        **{name: np.array([[getattr(metrics, name)]], np.int32) for name in (*counts, *drafts)},
        **{name: np.array([[getattr(metrics, name)]], np.int64) for name in times},
        "acceptance_rate": np.array([[metrics.acceptance_rate]], np.float32),
    }
