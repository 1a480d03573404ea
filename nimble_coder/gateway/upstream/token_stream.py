"""The token-level path: one `tensorrt_llm` stream in Triton per generation, token ids in and out."""

import itertools
import struct
import time
from array import array
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field

from tritonclient.grpc import service_pb2

from build_engine.artifact import ENGINE_MODEL
from build_engine.lookahead import LookaheadConfig
from nimble_coder.engine.protocol import TOKENS_PER_BLOCK, Ranked
from nimble_coder.gateway.errors import ApiError, from_triton
from nimble_coder.gateway.upstream.http2 import CallError, Channel

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
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
"""What the portable engine tells of other tokens and of the prompt; `nimble_coder.triton.tensors` says how."""
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
    model: str = ENGINE_MODEL
    """Triton's, whose engine is asked."""

    @property
    def wants_log_probs(self) -> bool:
        return any(name == "return_log_probs" for name, _, _ in self.sampling)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensors that the answer is to have."""
        asked = {"top_logprobs": TOP, "prompt_logprobs": OF_PROMPT}
        more = (asked[name] for name, _ in self.parameters if name in asked)
        return (*OUTPUTS, *((LOG_PROBS,) if self.wants_log_probs else ()), *more)


@dataclass(slots=True)
class Step:
    """The tokens that have arrived since the last one: one decoding step's, several steps' under load."""

    token_ids: list[int] = field(default_factory=list)
    is_final: bool = False
    log_probs: list[float] = field(default_factory=list)
    """One per token, where they were asked for."""
    top: list[Ranked] = field(default_factory=list)
    """The most likely tokens in the place of each, where they were asked for."""
    prompt: list[tuple[float, Ranked]] = field(default_factory=list)
    """The log probability of each token of the prompt but the first, and the most likely ones in its place."""
    accepted_draft_tokens: int = 0
    draft_tokens: int = 0
    decode_seconds: float = 0.0
    """From the first token to the last, as the engine measured it."""
    cached_tokens: int | None = None
    """Of the prompt, those whose keys and values were there already; the last response says it."""


class TokenStreams:
    """Runs generations on Triton; all share one connection."""

    def __init__(self, host: str, port: int) -> None:
        self._channel = Channel(host, port)
        self.heard = 0.0
        """When the engine last said something, as `time.monotonic` tells."""

    async def ping(self) -> None:
        """Returns once the engine's process has answered; raises `ApiError`.

        It is asked to stop a request that there is not, which costs it nothing and changes nothing.
        """
        await self.stop("ping")

    async def stop(self, request_id: str) -> None:
        """Ends the running requests of that id, which may be none; raises `ApiError`."""
        try:
            call = await self._channel.call(METHOD, stop_request(request_id))
            while messages := await call.read():
                if read_step(messages).is_final:
                    self.heard = time.monotonic()
                    return
        except CallError as error:
            raise from_triton(str(error)) from None

    async def generate(self, generation: Generation, request_id: str) -> AsyncGenerator[Step, None]:
        """Yields what has arrived, the final step last. Leaving early cancels the request in the engine.

        Raises `ApiError` for whatever Triton or the engine refuses or fails at.
        """
        message = infer_request(generation, request_id)
        try:
            call = await self._channel.call(METHOD, message)
            finished = False
            try:
                while messages := await call.read():
                    self.heard = time.monotonic()
                    for part in [[message] for message in messages] if generation.every_step else [messages]:
                        step = read_step(part)
                        finished = step.is_final
                        yield step
                        if finished:
                            return
            finally:
                # Triton (2.51) never frees a request whose stream is reset between its final response and its
                # trailers, and then cannot unload the model: a finished call is left to end by itself.
                if not finished:
                    call.cancel()
        except CallError as error:
            raise from_triton(str(error) or "unavailable") from None
        raise ApiError(503, "the engine ended the stream early: send the request again", "engine_unavailable", None, 1)

    def close(self) -> None:
        """Ends the connection, and with it every generation."""
        self._channel.close()


def infer_request(generation: Generation, request_id: str) -> bytes:
    """A `ModelInferRequest` in protobuf; raw tensors are little-endian."""
    g = generation
    request = service_pb2.ModelInferRequest(model_name=g.model, id=request_id)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
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
        scalars.append(("lookahead_window_size", "INT32", g.lookahead.window_size))
        scalars.append(("lookahead_ngram_size", "INT32", g.lookahead.ngram_size))
        scalars.append(("lookahead_verification_set_size", "INT32", g.lookahead.verification_set_size))
    for name, datatype, scalar in scalars:
        add(request, name, datatype, [1, 1], struct.pack(FORMATS[datatype], scalar))
    # The engine knows one end id; the others are words of one token.
    add_words(request, "stop_words_list", [(i,) for i in g.end_ids[1:]])
    add_words(request, "bad_words_list", g.bad_words)
    for name in g.outputs:
        request.outputs.add(name=name)
    encoded: bytes = request.SerializeToString()
    return encoded


def stop_request(request_id: str) -> bytes:
    """A `ModelInferRequest` that ends the running request of that id."""
    request = service_pb2.ModelInferRequest(model_name=ENGINE_MODEL, id=request_id)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
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


def read_step(messages: list[bytes]) -> Step:
    """What a run of `ModelStreamInferResponse` messages says; raises `ApiError` for an error among them."""
    step = Step()
    for message in messages:
        answer = service_pb2.ModelStreamInferResponse.FromString(message)
        if answer.error_message:
            raise from_triton(answer.error_message)
        response = answer.infer_response
        counts: dict[str, int] = {}
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True):
            if output.name == "output_ids":
                step.token_ids += memoryview(content).cast("i")
            elif output.name == LOG_PROBS:
                step.log_probs += memoryview(content).cast("f")
            elif output.name == TOP:
                step.top += [pairs(row) for row in rows_of(content, 2 * output.shape[2])]
            elif output.name == OF_PROMPT:
                step.prompt += [(row[0], pairs(row[1:])) for row in rows_of(content, output.shape[2])]
            elif output.name in COUNTS:
                counts[output.name] = int.from_bytes(content, "little")
        if counts:
            accepted, drafts, first, last, reused = (counts.get(name, 0) for name in COUNTS)
            step.cached_tokens = reused * TOKENS_PER_BLOCK
            step.accepted_draft_tokens, step.draft_tokens = accepted, drafts
            step.decode_seconds = (last - first) / 1e9
        if response.parameters["triton_final_response"].bool_param:
            step.is_final = True
    return step


def rows_of(content: bytes, width: int) -> Iterator[list[float]]:
    """Rows of so many FP32 numbers."""
    numbers: list[float] = [*memoryview(content).cast("f")]
    return (numbers[start : start + width] for start in range(0, len(numbers), width))


def pairs(row: list[float]) -> Ranked:
    """Token ids, exact in FP32, and their log probabilities."""
    return [(int(token), value) for token, value in zip(row[::2], row[1::2], strict=True)]
