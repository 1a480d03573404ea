"""A gRPC call whose client reads nothing leaves its slot to others, over real connections."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from pydantic import SecretStr
from tritonclient.grpc import service_pb2

from build_engine.artifact import Artifact
from nimble_coder.gateway.kserve import slots
from nimble_coder.gateway.kserve.grpc_proxy import KServeProxy
from nimble_coder.gateway.kserve.reflection import METHODS
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.settings import GatewaySettings

STREAM, METADATA = "/inference.GRPCInferenceService/ModelStreamInfer", "/inference.GRPCInferenceService/ModelMetadata"
LARGE = 4 << 20
SYMBOL = b"inference.GRPCInferenceService"
REQUEST = service_pb2.ModelInferRequest(model_name="tensorrt_llm")
for name in ("input_ids", "input_lengths", "request_output_len"):
    REQUEST.inputs.add(name=name, datatype="INT32", shape=[1, 1]).contents.int_contents.append(1)


class Upstream:
    """A stream of Triton's that answers without end."""

    async def write(self, _: bytes) -> None:
        """Takes a request."""

    async def done_writing(self) -> None:
        """The client may go on."""

    def cancel(self) -> None:
        """It is left."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        answer = service_pb2.ModelStreamInferResponse()
        answer.infer_response.raw_output_contents.append(bytes(LARGE))
        answer.infer_response.parameters["triton_final_response"].bool_param = False
        while True:
            await asyncio.sleep(0.01)
            yield answer.SerializeToString()


class Triton:
    """A channel on which a stream is answered without end, and all else with one large answer."""

    def stream_stream(self, _: str) -> Any:
        return Upstream

    def unary_unary(self, _: str) -> Any:
        async def answer(_: bytes) -> bytes:
            return bytes(LARGE)

        return answer

    async def close(self) -> None:
        """It is no more."""


def service_of(artifact: Artifact, keys: str = "") -> tuple[Service, int]:
    """A service, and its gRPC port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = artifact.directory
    ports = {"triton_grpc_port": 1, "triton_http_port": 1, "grpc_port": port}
    return Service(GatewaySettings(artifact=place, api_keys=SecretStr(keys), **ports)), port


@pytest.mark.parametrize("method", METHODS)
def test_reflection_takes_slots_and_ends_where_nobody_reads(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(slots, "CALLS", 2)
    monkeypatch.setattr(slots, "UNREAD_SECONDS", 2.0)
    service, port = service_of(artifact)
    question = b"\x22" + bytes([len(SYMBOL)]) + SYMBOL

    async def ask_on(call: Any) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await call.write(question)

    async def run() -> None:
        proxy = KServeProxy(service)
        server = await proxy.start()
        options = [("grpc.max_receive_message_length", -1), ("grpc.http2.bdp_probe", 0)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel, asyncio.timeout(60):
            unread = [channel.stream_stream(method)() for _ in range(2)]
            asking = [asyncio.create_task(ask_on(call)) for call in unread]
            while not proxy._slots.are_taken:
                await asyncio.sleep(0.01)
            with pytest.raises(grpc.aio.AioRpcError, match="2 calls are running") as refused:
                await channel.stream_stream(method)().read()
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            while proxy._slots.taken:
                await asyncio.sleep(0.01)
            for each in asking:
                each.cancel()
        await server.stop(0)
        await proxy.close()

    asyncio.run(run())


@pytest.mark.parametrize("method", [STREAM, METADATA])
def test_calls_that_nobody_reads_leave_room_for_others(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(slots, "CALLS", 3)
    monkeypatch.setattr(slots, "UNREAD_SECONDS", 2.0)
    service, port = service_of(artifact)

    async def run() -> None:
        proxy = KServeProxy(service)
        await proxy._triton.close()
        proxy._triton = Triton()
        server = await proxy.start()
        options = [("grpc.max_receive_message_length", -1), ("grpc.http2.bdp_probe", 0)]  # a window that stays small
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel, asyncio.timeout(60):
            unread = [channel.stream_stream(method)() for _ in range(3)]
            for call in unread:
                await call.write(REQUEST.SerializeToString() if method == STREAM else b"")
            while not proxy._slots.are_taken:
                await asyncio.sleep(0.01)
            with pytest.raises(grpc.aio.AioRpcError, match="3 calls are running") as refused:
                await channel.unary_unary(METADATA)(b"")
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            while proxy._slots.taken:
                await asyncio.sleep(0.01)
            assert not any(call.done() for call in unread)
            assert len(await channel.unary_unary(METADATA)(b"")) == LARGE
            if method == METADATA:
                assert [len(answer) async for answer in unread[0]] == [LARGE]
            else:
                with pytest.raises(grpc.aio.AioRpcError, match="was not taken in 2 s") as ended:
                    assert [len(answer) >= LARGE async for answer in unread[0]]
                assert ended.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await server.stop(0)
        await proxy.close()

    asyncio.run(run())


class Slow(Triton):
    """A channel on which a call takes until it is let go on."""

    def __init__(self) -> None:
        self.asked, self.end = 0, asyncio.Event()
        self.cancelled = self.ended = 0

    def unary_unary(self, _: str) -> Any:
        async def answer(_: bytes) -> bytes:
            self.asked += 1
            try:
                await self.end.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            self.ended += 1
            return b""

        return answer


def test_a_call_whose_client_leaves_is_not_cancelled_and_keeps_its_place_until_it_ends(artifact: Artifact) -> None:
    """Triton (2.51) may die of a cancelled call."""
    service, port = service_of(artifact)
    asked = service_pb2.ModelInferRequest(model_name="preprocessing")
    asked.inputs.add(name="QUERY", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"x")
    asked.inputs.add(name="REQUEST_OUTPUT_LEN", datatype="INT32", shape=[1, 1]).contents.int_contents.append(1)

    async def run() -> None:
        proxy = KServeProxy(service)
        await proxy._triton.close()
        proxy._triton = triton = Slow()
        server = await proxy.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(60):
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(asked.SerializeToString())
            metadata = channel.unary_unary(METADATA)(b"")
            while triton.asked < 2:
                await asyncio.sleep(0.01)
            assert infer.cancel()
            assert metadata.cancel()
            while proxy._slots.taken:
                await asyncio.sleep(0.01)
            assert (triton.cancelled, service.admission.own) == (0, 1)
            triton.end.set()
            while triton.ended < 2 or service.admission.own:
                await asyncio.sleep(0.01)
        assert service.metrics.cancelled._value.get() == 1
        await server.stop(0)
        await proxy.close()

    asyncio.run(run())


@pytest.mark.parametrize("method", [STREAM, *METHODS])
def test_one_key_leaves_calls_to_others(artifact: Artifact, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Streams on which nothing is asked cost it nothing, and never end."""
    monkeypatch.setattr(slots, "CALLS", 4)
    service, port = service_of(artifact, "one, another")

    async def run() -> None:
        proxy = KServeProxy(service)
        await proxy._triton.close()
        proxy._triton = Triton()
        server = await proxy.start()
        one, another = ((("authorization", f"Bearer {key}"),) for key in ("one", "another"))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(60):
            idle = [channel.stream_stream(method)(metadata=one) for _ in range(3)]
            while proxy._slots.taken < len(idle):
                await asyncio.sleep(0.01)
            with pytest.raises(grpc.aio.AioRpcError, match="3 calls of yours are running") as refused:
                await channel.stream_stream(method)(metadata=one).read()
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await channel.unary_unary(METADATA)(b"", metadata=another)
            assert idle.pop().cancel()
            while proxy._slots.taken > len(idle):
                await asyncio.sleep(0.01)
            assert await channel.unary_unary(METADATA)(b"", metadata=one)
        await server.stop(0)
        await proxy.close()

    asyncio.run(run())
