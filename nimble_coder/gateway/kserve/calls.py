"""Calls of models that stream, each on a stream of its own: who leaves one ends its generation.

To cancel the stream is not the way: Triton (2.51) tells the members of the `ensemble` nothing of that, and may die
where a request's last response comes meanwhile. So each request has a name that no other has, by which the engine is
told to stop it. The portable engine knows it as a parameter, TensorRT-LLM's as the id, which is the client's own where
clients may stop what they have sent; only there a stream is cancelled (its Triton has the mending, since 25.04).
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import suppress
from typing import Any, TypeVar

import grpc
from tritonclient.grpc import service_pb2

from nimble_coder.contract.fields import CALL, EMPTY_FINAL, FINAL
from nimble_coder.gateway.errors import from_triton
from nimble_coder.gateway.kserve.guard import ENGINE_MODELS, stops
from nimble_coder.gateway.kserve.text_model import TEXT_MODEL, TextModel
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.upstream.grpc_channel import grpc_channel

Result = TypeVar("Result")
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
CLOSE_SECONDS = 1.0
"""For the calls that nobody waits for any more, at the end of a process."""


class Calls:
    """Requests on their way, over a connection of their own."""

    def __init__(self, service: Service) -> None:
        self._streams, self._is_portable = service.streams, service.profile.is_portable
        self._triton = grpc_channel(service.settings)
        self._text_model = TextModel(service, self._ask)
        self._ending: set[asyncio.Future[object]] = set()

    async def close(self) -> None:
        """Ends the connection to Triton, a moment later where an answered call is still being read out."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=CLOSE_SECONDS)
        await self._triton.close()

    def responses(
        self, request: service_pb2.ModelInferRequest
    ) -> AsyncGenerator[service_pb2.ModelStreamInferResponse, None]:
        """Yields what the model answers, marked where it is final; an error is the last. Leaving early ends the
        generation. Raises `ApiError` where Triton does not answer."""
        return (self._text_model.responses if request.model_name == TEXT_MODEL else self._ask)(request)

    async def _ask(
        self, request: service_pb2.ModelInferRequest
    ) -> AsyncGenerator[service_pb2.ModelStreamInferResponse, None]:
        """What Triton answers."""
        asked_id, name, is_stop = request.id, new_name(), stops(request)
        if request.model_name not in ENGINE_MODELS or not (asked_id or is_stop):
            request.id = name
        if not is_stop:
            request.parameters[CALL].string_param = name
        request.parameters[EMPTY_FINAL].bool_param = True
        call, finished = self._triton.stream_stream(STREAM)(), False
        messages = Messages(call)
        sending = asyncio.ensure_future(send(call, request.SerializeToString()))
        self.leave(sending)  # grpcio cancels a call with the task that writes to it, too
        try:
            await asyncio.wait([sending])
            sending.result()
            async for message in messages:
                answer = service_pb2.ModelStreamInferResponse.FromString(message)
                answer.error_message = answer.error_message.replace(f"[request id: {request.id}] ", "")
                answer.infer_response.id = asked_id
                # What Triton refuses by itself is not marked; to read a mark that is not there would make one.
                is_marked = FINAL in answer.infer_response.parameters
                final = is_marked and answer.infer_response.parameters[FINAL].bool_param
                finished = final or bool(answer.error_message)
                yield answer
        except grpc.aio.AioRpcError as error:
            raise from_triton(error.details() or "unavailable") from None
        finally:
            if not finished and request.id != name and not self._is_portable:
                call.cancel()
            else:
                rest = asyncio.ensure_future(read_out(messages))
                self.leave(rest if finished else self.end(name, rest))

    async def whole(self, call: Awaitable[Result]) -> Result:
        """What comes of a call that is not cancelled with who waits for it: Triton (2.51) may die of that, too."""
        running = asyncio.ensure_future(call)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self.leave(running)
            raise

    async def end(self, name: str, rest: asyncio.Future[None]) -> None:
        """Has a request stopped of which `rest` is still to come."""
        await self._streams.end(name, rest)

    def leave(self, ending: Awaitable[object]) -> None:
        """Lets a call come to its end that nobody waits for any more."""
        task = asyncio.ensure_future(ending)
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[object]) -> None:
        self._ending.discard(task)
        if not task.cancelled():
            task.exception()  # which is nobody's any more


class Messages:
    """What comes of a call. Who waits for it may be cancelled without the call, which grpcio would cancel too."""

    def __init__(self, call: Any) -> None:
        self._messages = aiter(call)
        self._next: asyncio.Future[bytes | None] | None = None

    def __aiter__(self) -> "Messages":
        return self

    async def __anext__(self) -> bytes:
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._messages, None))
        await asyncio.wait([self._next])
        message, self._next = self._next.result(), None
        if message is None:
            raise StopAsyncIteration
        return message


def new_name() -> str:
    """A name for a request that nobody else has, and nobody can guess."""
    return secrets.token_hex(12)


async def send(call: Any, message: bytes) -> None:
    """Sends a call's only message."""
    await call.write(message)
    await call.done_writing()


async def read_out(messages: AsyncIterator[bytes]) -> None:
    """Reads what still comes of a call, for nobody."""
    with suppress(grpc.aio.AioRpcError):
        async for _ in messages:
            pass
