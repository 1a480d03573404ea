"""A request to an engine as Triton's `ModelInferRequest`: what `decoding.py` reads, and TensorRT-LLM's backend."""

import itertools
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from tritonclient.grpc import service_pb2

from build_engine.artifact import ENGINE_MODEL
from build_engine.lookahead import LookaheadConfig
from nimble_coder.contract.fields import CALL, EMPTY_FINAL, lookahead_values
from nimble_coder.contract.request import Guide

COUNTS = (
    "total_accepted_draft_tokens",
    "total_draft_tokens",
    "first_token_time_ns",
    "last_token_time_ns",
    "kv_cache_reused_blocks",
)
LOG_PROBS = "output_log_probs"
OUTPUTS = ("output_ids", *COUNTS)
TOP, OF_PROMPT = "generation_logits", "context_logits"
"""What the portable engine tells of other tokens and of the prompt; `decoding.py` says how."""


FORMATS = {"INT32": "<i", "UINT64": "<Q", "FP32": "<f", "BOOL": "<?"}


@dataclass(frozen=True)
class Generation:
    """What the engine is asked for. `sampling` holds (input name, Triton datatype, value) of the contract."""

    input_ids: list[int]
    max_tokens: int
    end_ids: tuple[int, ...]
    """Ids that end it; the engine is told, and the caller looks for them in what comes back too."""
    lookahead: LookaheadConfig | None = None
    """None leaves the engine its own (W,N,G)."""
    streaming: bool = True
    every_step: bool = False
    """One `Step` for each decoding step, also where several have arrived together."""
    sampling: tuple[tuple[str, str, float], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Token sequences that must not be completed."""
    parameters: tuple[tuple[str, str | float], ...] = ()
    """What the portable engine takes beside the contract."""
    guide: Guide | None = None
    """The form of the answer, for an engine that can be guided."""
    model: str = ENGINE_MODEL
    """Triton's, whose engine is asked."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end it too, and always come back: the first of `end_ids` need not."""

    @property
    def wants_log_probs(self) -> bool:
        return any(name == "return_log_probs" for name, _, _ in self.sampling)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensors that the answer is to have."""
        asked = {"top_logprobs": TOP, "prompt_logprobs": OF_PROMPT}
        more = (asked[name] for name, _ in self.parameters if name in asked)
        return (*OUTPUTS, *((LOG_PROBS,) if self.wants_log_probs else ()), *more)


def infer_request(generation: Generation, request_id: str) -> bytes:
    """A `ModelInferRequest` in protobuf; raw tensors are little-endian."""
    g = generation
    request = service_pb2.ModelInferRequest(model_name=g.model, id=request_id)
    request.parameters[EMPTY_FINAL].bool_param = True
    request.parameters[CALL].string_param = request_id
    for name, value in g.parameters:
        if isinstance(value, str):
            request.parameters[name].string_param = value
        else:
            request.parameters[name].double_param = value
    add(request, "input_ids", "INT32", [1, len(g.input_ids)], array("i", g.input_ids).tobytes())
    scalars: list[tuple[str, str, float]] = [
        ("input_lengths", "INT32", len(g.input_ids)),
        ("request_output_len", "INT32", g.max_tokens),
        ("streaming", "BOOL", g.streaming),
        ("exclude_input_in_output", "BOOL", True),
        ("return_perf_metrics", "BOOL", True),
        *g.sampling,
    ]
    if g.end_ids:
        scalars.append(("end_id", "INT32", g.end_ids[0]))
        scalars.append(("pad_id", "INT32", g.end_ids[0]))
    if g.lookahead is not None:
        scalars += [(name, "INT32", value) for name, value in lookahead_values(g.lookahead)]
    for name, datatype, scalar in scalars:
        add(request, name, datatype, [1, 1], struct.pack(FORMATS[datatype], scalar))
    # The engine knows one end id; the others are words of one token.
    add_words(request, "stop_words_list", [(i,) for i in (*g.end_ids[1:], *g.stop_ids)])
    add_words(request, "bad_words_list", g.bad_words)
    if g.guide:
        for name, text in (("guided_decoding_guide_type", g.guide.type.value), ("guided_decoding_guide", g.guide.text)):
            encoded_text = text.encode("utf-8", "replace")  # JSON may hold half a pair of surrogates
            add(request, name, "BYTES", [1, 1], struct.pack("<I", len(encoded_text)) + encoded_text)
    for name in g.outputs:
        request.outputs.add(name=name)
    encoded: bytes = request.SerializeToString()
    return encoded


def stop_request(call: str) -> bytes:
    """A `ModelInferRequest` that ends the request of that id (TensorRT-LLM's contract), or of that call (ours)."""
    request = service_pb2.ModelInferRequest(model_name=ENGINE_MODEL, id=call)
    request.parameters[EMPTY_FINAL].bool_param = True
    request.parameters[CALL].string_param = call
    for name in ("input_ids", "input_lengths", "request_output_len"):  # they have to be there, and mean nothing
        add(request, name, "INT32", [1, 1], struct.pack("<i", 1))
    add(request, "stop", "BOOL", [1, 1], b"\1")
    encoded: bytes = request.SerializeToString()
    return encoded


def add_words(request: service_pb2.ModelInferRequest, name: str, words: Sequence[tuple[int, ...]]) -> None:
    """Adds TensorRT-LLM's word list, if there are words: ids end to end, below them where each word ends, -1 pads."""
    if words:
        ids = [i for word in words for i in word]
        ends = [*itertools.accumulate(map(len, words))]
        rows = array("i", [*ids, *ends, *[-1] * (len(ids) - len(ends))])
        add(request, name, "INT32", [1, 2, len(ids)], rows.tobytes())


def add(request: service_pb2.ModelInferRequest, name: str, datatype: str, shape: list[int], content: bytes) -> None:
    """Adds one input tensor."""
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(content)
