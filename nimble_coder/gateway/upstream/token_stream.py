"""The token-level path: one `tensorrt_llm` stream in Triton per generation, token ids in and out.

No call is cancelled here. Triton (2.51) may free a request twice that is cancelled while its last response comes, and
dies of it; so the engine is told to stop what nobody waits for, and the call is read to its end.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from tritonclient.grpc import service_pb2

from nimble_coder.contract.encoding import COUNTS, LOG_PROBS, OF_PROMPT, TOP, Generation, infer_request, stop_request
from nimble_coder.contract.response import TOKENS_PER_BLOCK, Ranked
from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.errors import ApiError, from_triton
from nimble_coder.gateway.upstream.http2 import Call, CallError, Channel

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
STOP_SECONDS, LONGEST_STOP_SECONDS = 0.05, 2.0
"""Between the first two attempts to stop a request that has not ended, and between later ones at most."""


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
        self.received = 0.0
        """When the last message of a generation came."""
        self._ending: set[asyncio.Future[None]] = set()

    async def ping(self) -> None:
        """Returns once the engine's process has answered; raises `ApiError`.

        It is asked to stop a request that there is not, which costs it nothing and changes nothing.
        """
        await self.stop("ping")

    async def stop(self, name: str) -> None:
        """Ends the request of that id or call, which may have ended before, or be still to come; raises `ApiError`."""
        try:
            call = await self._channel.call(METHOD, stop_request(name))
            while messages := await call.read():
                if read_step(messages).is_final:
                    self.heard = time.monotonic()
                    return
        except CallError as error:
            raise from_triton(str(error)) from None

    async def end(self, name: str, rest: asyncio.Future[None]) -> None:
        """Has a request stopped of which `rest` is still to come, for nobody.

        It is asked more than once: TensorRT-LLM's backend knows nothing of a request that has not come to it yet.
        """
        pause = STOP_SECONDS
        while not rest.done():
            with suppress(ApiError):
                await self.stop(name)
            await asyncio.wait([rest], timeout=pause)
            pause = min(2 * pause, LONGEST_STOP_SECONDS)

    def leave(self, ending: Coroutine[None, None, None]) -> None:
        """Lets a call come to its end that nobody waits for any more."""
        task = asyncio.ensure_future(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def generate(self, generation: Generation, request_id: str) -> AsyncGenerator[Step, None]:
        """Yields what has arrived, the final step last. Leaving early ends the request in the engine.

        Its id there is unique: clients may send the same one twice. Raises `ApiError` for whatever Triton or the engine
        refuses or fails at.
        """
        name = f"{request_id}-{secrets.token_hex(8)}"
        try:
            call = await self._channel.call(METHOD, infer_request(generation, name))
            finished = False
            try:
                while messages := await call.read():
                    self.heard = self.received = time.monotonic()
                    for part in [[message] for message in messages] if generation.every_step else [messages]:
                        try:
                            step = await aside(sum(map(len, part)), read_step, part)
                        except ApiError:
                            finished = True  # the engine's error is its last response
                            raise
                        finished = step.is_final
                        yield step
                        if finished:
                            return
            finally:
                if not finished:
                    self.leave(self.end(name, asyncio.ensure_future(read_out(call))))
        except CallError as error:
            raise from_triton(str(error) or "unavailable") from None
        raise ApiError(503, "the engine ended the stream early: send the request again", "engine_unavailable", None, 1)

    def close(self) -> None:
        """Ends the connection, and with it every generation."""
        self._channel.close()


async def read_out(call: Call) -> None:
    """Reads what still comes of a call, for nobody."""
    with suppress(CallError):
        while await call.read():
            pass


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
