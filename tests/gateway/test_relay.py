"""A gRPC stream whose client reads nothing, or goes while something is written to it, gives its places back."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from build_engine.artifact import Artifact
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.kserve.guard import KServeGuard
from nimble_coder.gateway.kserve.relay import Relay
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.settings import GatewaySettings


class Upstream:
    """Triton's side of a stream: it answers without end."""

    def __init__(self) -> None:
        self.is_cancelled, self.names = False, list[str]()

    async def write(self, message: bytes) -> None:
        self.names.append(service_pb2.ModelInferRequest.FromString(message).parameters["call"].string_param)

    @property
    def taken(self) -> int:
        return len(self.names)

    async def done_writing(self) -> None:
        """The client may go on."""

    def cancel(self) -> None:
        self.is_cancelled = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            if self.taken:
                answer = service_pb2.ModelStreamInferResponse()
                answer.infer_response.parameters["triton_final_response"].bool_param = False
                yield answer.SerializeToString()


class Leaving:
    """Calls that come to their ends by themselves, as far as anybody lets them."""

    def __init__(self) -> None:
        self.left: list[asyncio.Future[None]] = []
        self.stopped: list[str] = []

    async def end(self, name: str, rest: asyncio.Future[None]) -> None:
        self.stopped.append(name)
        rest.cancel()

    def leave(self, ending: Any) -> None:
        self.left.append(asyncio.ensure_future(ending))


class Endless(Leaving):
    """Calls of the ensemble, which answers without end."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = self.ended = 0

    async def responses(self, _: Any) -> AsyncIterator[service_pb2.ModelStreamInferResponse]:
        self.taken += 1
        try:
            while True:
                await asyncio.sleep(0)
                yield service_pb2.ModelStreamInferResponse(error_message="")
        finally:
            self.ended += 1


class Ending(Upstream):
    """Triton's side where the client sends nothing more, and nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self._end = asyncio.Event()

    async def done_writing(self) -> None:
        self._end.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await self._end.wait()
        for message in list[bytes]():
            yield message


class Answered(Upstream):
    """Triton's side where the one request has got its last response."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self.taken:
            await asyncio.sleep(0)
        answer = service_pb2.ModelStreamInferResponse()
        answer.infer_response.parameters["triton_final_response"].bool_param = True
        yield answer.SerializeToString()
        await asyncio.Event().wait()


class Dying(Leaving):
    """Calls of the ensemble, whose Triton dies meanwhile."""

    async def responses(self, _: Any) -> AsyncIterator[service_pb2.ModelStreamInferResponse]:
        for _ in range(100):
            await asyncio.sleep(0)
        yield service_pb2.ModelStreamInferResponse()
        raise ApiError(503, "the engine has gone")


class Reading:
    """The context of a client that reads."""

    async def write(self, _: bytes) -> None:
        """It has been read."""


class Unread:
    """The context of a client that reads nothing."""

    async def write(self, _: bytes) -> None:
        await asyncio.Event().wait()


class Gone:
    """That of one that has gone."""

    async def write(self, _: bytes) -> None:
        raise grpc.aio.InternalError


def request_of(model: str) -> service_pb2.ModelInferRequest:
    """A generation that the guard lets through."""
    request = service_pb2.ModelInferRequest(model_name=model)
    if model == "tensorrt_llm":
        for name in ("input_ids", "input_lengths", "request_output_len"):
            request.inputs.add(name=name, datatype="INT32", shape=[1, 1]).contents.int_contents.append(1)
        return request
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"def f(")
    request.inputs.add(name="max_tokens", datatype="INT32", shape=[1, 1]).contents.int_contents.append(9)
    return request


@pytest.mark.parametrize(
    ("context", "error", "reason"),
    [(Unread(), ApiError, "a message of the stream was not taken in"), (Gone(), grpc.aio.InternalError, None)],
)
@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls", "tensorrt_llm"])
def test_a_stream_that_nobody_reads_gives_its_places_back(
    artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    context: Any,
    error: type[Exception],
    reason: str | None,
    model: str,
) -> None:
    monkeypatch.setattr("nimble_coder.gateway.kserve.slots.UNREAD_SECONDS", 0.1)
    service = Service(GatewaySettings(artifact=artifact.directory, triton_grpc_port=1, triton_http_port=1))
    upstream = Upstream()
    calls: Any = Endless()
    request = request_of(model)

    async def requests() -> AsyncIterator[bytes]:
        yield request.SerializeToString()

    async def run() -> None:
        relay = Relay(service, KServeGuard(service), calls, "client", upstream, context)
        with pytest.raises(error, match=reason):
            await asyncio.wait_for(relay.run(requests()), 30)

    asyncio.run(run())
    assert (upstream.taken, calls.taken, calls.ended) == ((1, 0, 0) if model == "tensorrt_llm" else (0, 1, 1))
    # Triton (2.51) may die of a stream that is cancelled.
    assert (upstream.is_cancelled, calls.stopped) == (False, upstream.names)
    assert service.admission.own == 0


def test_a_stream_on_which_nothing_runs_is_left_to_end_by_itself(artifact: Artifact) -> None:
    """Triton may die where it is cancelled just behind the last response; grpcio cancels a call with who reads it."""
    service = Service(GatewaySettings(artifact=artifact.directory, triton_grpc_port=1, triton_http_port=1))

    async def requests() -> AsyncIterator[bytes]:
        yield request_of("tensorrt_llm").SerializeToString()
        await asyncio.Event().wait()

    async def run() -> None:
        calls, upstream = Leaving(), Answered()
        relay = Relay(service, KServeGuard(service), calls, "client", upstream, Reading())  # type: ignore[arg-type]
        running = asyncio.create_task(relay.run(requests()))
        while not upstream.taken or relay.unfinished:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        (reader,) = calls.left
        assert not (upstream.is_cancelled or reader.done())
        reader.cancel()

    asyncio.run(run())
    assert service.admission.own == 0


class Slow(Upstream):
    """Triton's side that has no room yet for what is written. grpcio resets a call with the task that writes to it."""

    def __init__(self) -> None:
        super().__init__()
        self.room, self.has_all = asyncio.Event(), False

    async def write(self, message: bytes) -> None:
        await super().write(message)
        try:
            await self.room.wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise

    async def done_writing(self) -> None:
        self.has_all = self.room.is_set()


def test_a_client_that_goes_while_its_request_is_written_resets_nothing(artifact: Artifact) -> None:
    service = Service(GatewaySettings(artifact=artifact.directory, triton_grpc_port=1, triton_http_port=1))

    async def requests() -> AsyncIterator[bytes]:
        yield request_of("tensorrt_llm").SerializeToString()

    async def run() -> None:
        calls, upstream = Leaving(), Slow()
        relay = Relay(service, KServeGuard(service), calls, "client", upstream, Reading())  # type: ignore[arg-type]
        running = asyncio.create_task(relay.run(requests()))
        while not upstream.taken:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        await asyncio.sleep(0.01)
        before = (upstream.is_cancelled, upstream.has_all)
        upstream.room.set()
        await asyncio.sleep(0.01)
        assert (before, upstream.has_all) == ((False, False), True)
        assert calls.stopped == upstream.names

    asyncio.run(run())
    assert service.admission.own == 0


class Lost(Ending):
    """Triton's side where it has died."""

    async def done_writing(self) -> None:
        await super().done_writing()
        raise RuntimeError


def test_what_fails_behind_a_client_that_has_gone_is_no_error_in_the_log(
    artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(GatewaySettings(artifact=artifact.directory, triton_grpc_port=1, triton_http_port=1))

    async def requests() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def run() -> None:
        relay = Relay(service, KServeGuard(service), Leaving(), "client", Lost(), Reading())  # type: ignore[arg-type]
        running = asyncio.create_task(relay.run(requests()))
        await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
        await asyncio.sleep(0.01)

    asyncio.run(run())
    gc.collect()
    assert not caplog.records


def test_a_request_apart_that_fails_ends_a_stream_whose_client_has_sent_all(artifact: Artifact) -> None:
    """Triton has ended its side of the stream by then, on which there was nothing."""
    service = Service(GatewaySettings(artifact=artifact.directory, triton_grpc_port=1, triton_http_port=1))

    async def requests() -> AsyncIterator[bytes]:
        yield request_of("ensemble").SerializeToString()

    async def run() -> None:
        calls: Any = Dying()
        context: Any = Reading()
        relay = Relay(service, KServeGuard(service), calls, "client", Ending(), context)
        with pytest.raises(ApiError, match="the engine has gone"):
            await asyncio.wait_for(relay.run(requests()), 5)

    asyncio.run(run())
    assert service.admission.own == 0
