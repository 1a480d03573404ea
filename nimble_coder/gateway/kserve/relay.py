"""A client's gRPC stream of inferences on its way to Triton, and what Triton answers on its way back."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from nimble_coder.contract.fields import CALL, EMPTY_FINAL, FINAL
from nimble_coder.gateway.access.limits import draining
from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.kserve.calls import Calls, new_name, read_out
from nimble_coder.gateway.kserve.guard import GENERATING_TEXT, KServeGuard, stops
from nimble_coder.gateway.kserve.slots import Context, write
from nimble_coder.gateway.service import Service

STUB_DIED = b"is not healthy"
"""In Triton's words for the death of a Python backend's process."""
APART = GENERATING_TEXT
"""The models whose requests cannot be ended by cancelling the stream that they are on: Triton (2.51) tells no member of
the ensemble, and the other one is the gateway's."""
MORE_FOLLOWS = b"\n\x15" + FINAL.encode() + b"\x12\x02\x08\x00"
"""The bytes of a false one, which every response but a request's last has: finding them is cheaper than parsing."""


class Sent(NamedTuple):
    """A request on a stream that has not got its last response yet."""

    places: int
    name: str
    """By which the portable engine ends it; none where it goes another way, or is a stop."""
    wants_empty_final: bool
    is_stop: bool


class Relay:
    """One stream. Each of its requests takes its places when it is sent and gives them back with its last response."""

    def __init__(
        self, service: Service, guard: KServeGuard, calls: Calls, client: str, upstream: Any, context: Context
    ) -> None:
        self._service, self._guard, self._client = service, guard, client
        self._upstream, self._calls, self._context = upstream, calls, context
        self._writing = asyncio.Lock()  # gRPC takes one message at a time, and two tasks have some
        self._feeder: asyncio.Task[None] | None = None
        self._apart = asyncio.TaskGroup()
        """Requests that cancelling the stream would not end, each on a stream of its own."""
        self._sent: dict[str, deque[Sent]] = {}
        """By request id, which need not be unique."""
        self._is_ended = self._is_left = False

    @property
    def unfinished(self) -> int:
        """Generations that have not got their last response."""
        return sum(sent.places for waiting in self._sent.values() for sent in waiting)

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        """Passes messages on until Triton ends the stream; raises `ApiError` where that is because of `end_if_idle`."""
        try:
            async with self._apart:
                await self._run_together(requests)
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self._service.admission.leave(self._client, self.unfinished)
        if self._is_ended:
            raise draining()

    async def _run_together(self, requests: AsyncIterator[bytes]) -> None:
        self._feeder = asyncio.create_task(self._feed(requests))
        reader = asyncio.create_task(self._read())  # grpcio cancels a call with the task that waits for its messages
        for task in (self._feeder, reader):
            task.add_done_callback(look_at)
        try:
            await asyncio.wait([reader])
            reader.result()
        finally:
            self._feeder.cancel()
            self._leave(reader)

    def _leave(self, reader: asyncio.Task[None]) -> None:
        """Ends what is unfinished. Triton (2.51, which the portable engine has) may die of a stream that is cancelled
        while a request's last response comes; the backend of TensorRT-LLM knows no names, and its Triton is mended."""
        if self._sent and not self._service.profile.is_portable:
            reader.cancel()
            self._upstream.cancel()
            return
        self._is_left = True
        rest = asyncio.ensure_future(read_out(self._upstream)) if reader.done() else reader
        self._calls.leave(rest)
        for name in [each.name for waiting in self._sent.values() for each in waiting if each.name]:
            self._calls.leave(self._calls.end(name, rest))

    async def _read(self) -> None:
        async for message in self._upstream:
            if not self._is_left:
                await self._pass(message)

    async def _pass(self, message: bytes) -> None:
        if len(message) < 256 and STUB_DIED in message:
            self._service.admission.doubted.set()
        if MORE_FOLLOWS in message or self._settle(message):
            await self._write(message)

    async def _run_apart(self, request: service_pb2.ModelInferRequest) -> None:
        """A request on a stream of its own; what fails there ends this one, as it would on it."""
        async with aclosing(self._calls.responses(request)) as answers:
            async for answer in answers:
                await self._pass(answer.SerializeToString())

    def end_if_idle(self) -> None:
        """Takes no more requests where none is running; Triton then ends the stream."""
        if self._feeder and not self._feeder.done() and not self._sent:
            self._is_ended = True
            self._feeder.cancel()

    async def _feed(self, requests: AsyncIterator[bytes]) -> None:
        sending: asyncio.Future[None] | None = None
        try:
            async for message in requests:
                request = service_pb2.ModelInferRequest()
                try:
                    request = read_request(message)
                    self._service.rate.check(self._client)
                    generations = await aside(len(message), self._guard.check_grpc, request, self._client)
                    self._admit(request, generations)
                except ApiError as error:
                    await self._refuse(request.id, error)
                else:
                    if request.model_name in APART:
                        self._apart.create_task(self._run_apart(request))
                    else:
                        # grpcio cancels a call with the task that writes to it, and what else runs there.
                        sending = asyncio.ensure_future(self._upstream.write(request.SerializeToString()))
                        sending.add_done_callback(look_at)
                        await asyncio.shield(sending)
        finally:
            if sending:
                await asyncio.wait([sending])
            await self._upstream.done_writing()

    def _admit(self, request: service_pb2.ModelInferRequest, places: int) -> None:
        """Takes the request's places and makes Triton mark its last response; raises `ApiError`."""
        self._service.admission.enter(self._client, places)
        option, is_stop = request.parameters[EMPTY_FINAL], stops(request)
        name = "" if is_stop or request.model_name in APART else new_name()
        self._sent.setdefault(request.id, deque()).append(Sent(places, name, option.bool_param, is_stop))
        option.bool_param = True
        if name:
            request.parameters[CALL].string_param = name

    def _settle(self, message: bytes) -> bool:
        """Gives its places back where this is a request's last response; False for one that nobody asked for."""
        answer = service_pb2.ModelStreamInferResponse.FromString(message)
        response = answer.infer_response
        if FINAL in response.parameters and not response.parameters[FINAL].bool_param:
            return True
        waiting = self._sent.get(response.id)
        if not waiting:
            return True
        # A stop has the id of what it stops; its answer is the one without outputs, and comes unasked as well.
        sent = next((s for s in waiting if s.is_stop and not response.outputs), waiting[0])
        waiting.remove(sent)
        if not waiting:
            del self._sent[response.id]
        self._service.admission.leave(self._client, sent.places)
        if self._service.admission.draining:
            self.end_if_idle()
        return bool(sent.wants_empty_final or sent.is_stop or response.outputs or answer.error_message)

    async def _refuse(self, request_id: str, error: ApiError) -> None:
        """Says so as Triton does, which harms no other request of the stream."""
        self._service.metrics.errors.labels(error.kind).inc()
        answer = service_pb2.ModelStreamInferResponse(error_message=str(error))
        answer.infer_response.id = request_id
        await self._write(answer.SerializeToString())

    async def _write(self, message: bytes) -> None:
        async with self._writing:
            await write(self._context, message)


def look_at(ended: asyncio.Future[None]) -> None:
    """Nobody waits for it where its client or Triton has gone, and asyncio would log its error as one of ours."""
    if not ended.cancelled():
        ended.exception()


def read_request(message: bytes) -> service_pb2.ModelInferRequest:
    """A request that is to be looked into; raises `ApiError`."""
    try:
        return service_pb2.ModelInferRequest.FromString(message)
    except DecodeError:
        raise ApiError(400, "the message is not a ModelInferRequest", "invalid_message") from None
