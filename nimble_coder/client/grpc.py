"""A client for the service's gRPC endpoint: text in, text out, token by token, with what lookahead did.

    with CompletionClient("127.0.0.1:8001") as client:
        for chunk in client.stream("def fib(", max_tokens=64):
            print(chunk.text, end="")

It needs no tokenizer: the service's own `preprocessing` and `postprocessing` models tokenise for it.
"""

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from build_engine.exit_codes import ExitCode
from build_engine.lookahead import LookaheadConfig
from nimble_coder.contract.fields import lookahead_values
from nimble_coder.text.detokenizer import Detokenizer

Array = NDArray[Any]

METRICS = ("total_accepted_draft_tokens", "total_draft_tokens", "acceptance_rate")


class CompletionError(RuntimeError):
    """The service refused or failed a request, or cannot be reached; says which."""


class AddressError(CompletionError):
    """A URL that is none, or certificates that cannot be read: nobody was asked."""

    exit_code = ExitCode.ASKED


@dataclass(frozen=True)
class Chunk:
    """What one decoding step gave."""

    text: str
    """What is certain since the last text; of several steps that have arrived together, the last one has all."""
    token_ids: list[int]


@dataclass
class Completion:
    """A finished completion."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    accepted_draft_tokens: int = 0
    draft_tokens: int = 0
    acceptance_rate: float = 0.0
    time_to_first_token: float = 0.0
    """Seconds from sending the tokens to the first one back."""
    seconds: float = 0.0
    """Seconds from sending the tokens to the last one back."""

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens over the whole time, prompt processing included."""
        return len(self.token_ids) / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_step(self) -> float:
        """Tokens per decoding step; 1.0 is plain decoding. The first token comes from the prompt, not from a step."""
        return tokens_per_step(len(self.token_ids), self.accepted_draft_tokens)


def tokens_per_step(tokens: int, accepted: int) -> float:
    """Of an answer of so many tokens, so many of which were drafts."""
    steps = tokens - 1 - accepted
    return (tokens - 1) / steps if steps > 0 else 1.0


class CompletionStream:
    """An iterator over one completion's chunks; leaving it early (`close`, or a `with` block) cancels the request."""

    def __init__(
        self,
        client: "CompletionClient",
        request: dict[str, Array],
        decode: Callable[[list[int]], str] | None = None,
        model: str = "tensorrt_llm",
    ) -> None:
        self.completion = Completion(prompt_tokens=int(request["input_lengths"].item()))
        """Filled as chunks are read; whole once the iterator has ended."""
        self._detokenizer = Detokenizer(decode or client.decode)
        self._results: queue.SimpleQueue[tuple[Any, InferenceServerException | None]] = queue.SimpleQueue()
        self._connection = client.connect()
        self._started = time.perf_counter()
        self._connection.start_stream(lambda result, error: self._results.put((result, error)), headers=client.headers)
        self._connection.async_stream_infer(
            model, tensors(request), enable_empty_final_response=True, request_id="completion"
        )
        self._failed: tuple[Any, InferenceServerException | None] | None = None
        """An error that came behind tokens, to be raised after them."""
        self._finished = False
        self._chunks = self._read()

    def __iter__(self) -> Iterator[Chunk]:
        return self._chunks

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def __enter__(self) -> "CompletionStream":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream; a request that still runs is cancelled on the server."""
        # Triton (2.51) never frees a request that is cancelled after its final response (docs/triton-workarounds.md).
        self._connection.stop_stream(cancel_requests=not self._finished)
        self._connection.close()

    def finish(self) -> Completion:
        """Reads to the end and returns the whole completion."""
        for _ in self._chunks:
            pass
        return self.completion

    def _read(self) -> Iterator[Chunk]:
        try:
            while not self._finished:
                steps = self._arrived()
                ids = [token for step in steps for token in step]
                text = self._detokenizer.push(ids) + (self._detokenizer.finish() if self._finished else "")
                self.completion.text += text
                yield from (Chunk("", step) for step in steps[:-1] if step)
                if steps[-1] or text:
                    yield Chunk(text, steps[-1])
        finally:
            self.close()

    def _arrived(self) -> list[list[int]]:
        """The tokens of every decoding step that has arrived, waiting for the first. Raises `CompletionError`.

        Their text is asked for together: asking the service for every step's would take longer than the step.
        """
        steps: list[list[int]] = []
        while not steps or not (self._finished or self._results.empty()):
            result, error = self._failed or self._results.get()
            if error is not None:
                self._failed = (result, error)
                if steps:
                    return steps  # the error's turn is the next one
                raise CompletionError(error.message())
            self._finished = result.get_response().parameters["triton_final_response"].bool_param
            steps.append(self._take(result))
        return steps

    def _take(self, result: Any) -> list[int]:
        done = self.completion
        done.seconds = time.perf_counter() - self._started
        output = result.as_numpy("output_ids")
        ids: list[int] = [] if output is None else output.reshape(-1).tolist()
        if ids and not done.token_ids:
            done.time_to_first_token = done.seconds
        done.token_ids += ids
        accepted, drafts, rate = (result.as_numpy(name) for name in METRICS)
        if accepted is not None:
            done.accepted_draft_tokens, done.draft_tokens = int(accepted.item()), int(drafts.item())
            done.acceptance_rate = float(rate.item())
        return ids


class CompletionClient:
    """Streams completions from a service's gRPC endpoint. Safe to share between threads."""

    def __init__(
        self, url: str = "127.0.0.1:8001", api_key: str | None = None, tls: bool = False, ca_file: Path | None = None
    ) -> None:
        """`url` is host:port. `ca_file` holds the PEM certificates to trust under TLS, the system's where None.

        Raises `AddressError` for a URL of HTTP, and where that file cannot be read.
        """
        if not url or url.startswith(("http://", "https://")):
            raise AddressError(f"{url!r} is not the host:port of a gRPC endpoint such as 127.0.0.1:8001")
        self.url = url
        self.headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        """Metadata that every call carries."""
        self._tls, self._ca_file = tls or ca_file is not None, ca_file
        try:
            if ca_file:
                ca_file.open("rb").close()
        except OSError as error:
            raise AddressError(f"the certificates {ca_file} cannot be read: {error.strerror}") from None
        self._connection = self.connect()

    def connect(self) -> triton.InferenceServerClient:
        """A connection of its own."""
        certificates = str(self._ca_file) if self._ca_file else None
        return triton.InferenceServerClient(self.url, ssl=self._tls, root_certificates=certificates)

    def __enter__(self) -> "CompletionClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def stream(
        self, prompt: str, max_tokens: int = 128, lookahead: LookaheadConfig | None = None, stop: tuple[str, ...] = ()
    ) -> CompletionStream:
        """Starts a completion of `prompt`, at most `max_tokens` long.

        `lookahead` is the request's (w, n, g), the engine's own where None; `build_engine.lookahead.PLAIN` turns it
        off. Generation ends behind any of the texts in `stop`, which are compared token by token. Raises
        `CompletionError` here or while the chunks are read.
        """
        words = np.array([[text.encode() for text in stop]], np.object_)
        question = {
            "QUERY": np.array([[prompt.encode()]], np.object_),
            "REQUEST_OUTPUT_LEN": whole("max_tokens", max_tokens),
            **({"STOP_WORDS_DICT": words} if stop else {}),
        }
        prepared = self._infer("preprocessing", question)
        ends = {"end_id": prepared["OUT_END_ID"], "pad_id": prepared["OUT_PAD_ID"]}
        if prepared["STOP_WORDS_IDS"].size:
            ends["stop_words_list"] = prepared["STOP_WORDS_IDS"]
        return CompletionStream(
            self, token_request(prepared["INPUT_ID"].reshape(-1).tolist(), max_tokens, lookahead) | ends
        )

    def stream_tokens(
        self,
        prompt: list[int],
        max_tokens: int = 128,
        lookahead: LookaheadConfig | None = None,
        model: str = "tensorrt_llm",
    ) -> CompletionStream:
        """Like `stream` from token ids, by exactly `max_tokens`: no token ends it, and no text is made of them.

        `model` is the one in Triton whose engine is asked.
        """
        return CompletionStream(self, token_request(prompt, max_tokens, lookahead), lambda _: "", model)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, encoded by the service."""
        question = {"QUERY": np.array([[text.encode()]], np.object_), "REQUEST_OUTPUT_LEN": np.array([[1]], np.int32)}
        ids: list[int] = self._infer("preprocessing", question)["INPUT_ID"].reshape(-1).tolist()
        return ids

    def complete(
        self, prompt: str, max_tokens: int = 128, lookahead: LookaheadConfig | None = None, stop: tuple[str, ...] = ()
    ) -> Completion:
        """Like `stream`, and waits for the whole completion."""
        return self.stream(prompt, max_tokens, lookahead, stop).finish()

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, decoded by the service."""
        batch = {"TOKENS_BATCH": np.array([[ids]], np.int32), "SEQUENCE_LENGTH": np.array([[len(ids)]], np.int32)}
        decoded: bytes = self._infer("postprocessing", batch)["OUTPUT"].reshape(-1)[0]
        return decoded.decode()

    def _infer(self, model: str, inputs: dict[str, Array]) -> dict[str, Array]:
        try:
            result = self._connection.infer(model, tensors(inputs), headers=self.headers)
        except InferenceServerException as error:
            said = error.message()
            if "http1.x server" in said:
                raise CompletionError(f"{self.url} answers, but not in gRPC: give the gRPC port") from None
            if "WRONG_VERSION_NUMBER" in said:
                raise CompletionError(f"{self.url} answers, but not in TLS") from None
            raise CompletionError(f"{self.url}: {said}") from None
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def token_request(prompt: list[int], max_tokens: int, lookahead: LookaheadConfig | None) -> dict[str, Array]:
    """The inputs of `tensorrt_llm` for one streamed request, batch dimension included."""
    sizes = {"input_lengths": len(prompt), "request_output_len": max_tokens}
    if lookahead is not None:
        sizes |= lookahead_values(lookahead)
    return {
        "input_ids": np.array([prompt], np.int32),
        "streaming": np.array([[True]]),
        "return_perf_metrics": np.array([[True]]),
        **{name: whole(name, value) for name, value in sizes.items()},
    }


def whole(name: str, value: int) -> Array:
    """A number as Triton takes it, batch dimension included; raises `CompletionError` for one beyond 32 bits."""
    if not -(2**31) <= value < 2**31:
        raise CompletionError(f"{name} is {value}, and the service takes numbers of 32 bits")
    return np.array([[value]], np.int32)


def tensors(arrays: dict[str, Array]) -> list[triton.InferInput]:
    """Triton inputs of named arrays, batch dimension included."""
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs
