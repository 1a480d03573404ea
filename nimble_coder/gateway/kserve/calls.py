"""Calls of models that stream, each on a stream of its own: who leaves one ends its generation.

To cancel the stream does that, but not where the model is `ensemble`: Triton (2.51) does not tell its members. They
know the request's id, though, so each such request gets one that no other has, by which the engine is told to stop it.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import suppress
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from nimble_coder.gateway.errors import ApiError, from_triton
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.upstream.grpc_channel import grpc_channel

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
NOT_CANCELLED = "ensemble"
EMPTY_FINAL, FINAL = "triton_enable_empty_final_response", "triton_final_response"
"""The parameters that ask for a mark of a request's last response, and that are this mark."""
STOP_SECONDS = 0.05
"""Between two attempts to stop such a request."""
CLOSE_SECONDS = 1.0
"""For the calls that nobody waits for any more, at the end of a process."""


class Calls:
    """Requests on their way, over a connection of their own."""

    def __init__(self, service: Service) -> None:
        self._streams = service.streams
        self._triton = grpc_channel(service.settings)
        self._ending: set[asyncio.Future[None]] = set()

    async def close(self) -> None:
        """Ends the connection to Triton, a moment later where an answered call is still being read out."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=CLOSE_SECONDS)
        await self._triton.close()

    async def responses(
        self, request: service_pb2.ModelInferRequest
    ) -> AsyncGenerator[service_pb2.ModelStreamInferResponse, None]:
        """Yields what the model answers, marked where it is final; an error is the last. Leaving early ends the
        generation. Raises `ApiError` where Triton does not answer."""
        asked_id = request.id
        if request.model_name == NOT_CANCELLED:
            request.id = secrets.token_hex(12)
        request.parameters[EMPTY_FINAL].bool_param = True
        call, finished = self._triton.stream_stream(STREAM)(), False
        messages = Messages(call)
        try:
            await call.write(request.SerializeToString())
            await call.done_writing()
            async for message in messages:
                answer = service_pb2.ModelStreamInferResponse.FromString(message)
                answer.error_message = answer.error_message.removeprefix(f"[request id: {request.id}] ")
                answer.infer_response.id = asked_id
                final = answer.infer_response.parameters[FINAL].bool_param
                finished = final or bool(answer.error_message)
                yield answer
        except grpc.aio.AioRpcError as error:
            raise from_triton(error.details() or "unavailable") from None
        finally:
            if finished:
                self.leave(read_out(messages))
            elif request.model_name == NOT_CANCELLED:
                self.leave(self._stop(request.id, messages))
            else:
                call.cancel()

    def leave(self, ending: Awaitable[None]) -> None:
        """Lets a call come to its end that nobody waits for any more.

        One that has been answered is not cancelled: Triton (2.51) may never free its requests, or die of it.
        """
        task = asyncio.ensure_future(ending)
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled():
            task.exception()  # which is nobody's any more

    async def _stop(self, request_id: str, messages: AsyncIterator[bytes]) -> None:
        """Has the engine end a member's request; until it has reached the engine there is none to end."""
        ending = asyncio.create_task(read_out(messages))
        with suppress(ApiError):
            while not ending.done():
                await self._streams.stop(request_id)
                await asyncio.wait([ending], timeout=STOP_SECONDS)
        await ending  # also where nothing can be stopped any more


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


async def read_out(messages: AsyncIterator[bytes]) -> None:
    """Reads what still comes of a call, for nobody."""
    with suppress(grpc.aio.AioRpcError):
        async for _ in messages:
            pass
