"""The connection to Triton finds it soon after it listens, however long that took."""

import asyncio
import time
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from nimble_coder.gateway.settings import GatewaySettings
from nimble_coder.gateway.upstream.grpc_channel import grpc_channel
from nimble_coder.processes.triton import Addresses


async def ready(_request: bytes, _context: object) -> bytes:
    """The one answer that is asked for."""
    return bytes(service_pb2.ModelReadyResponse(ready=True).SerializeToString())


async def seconds_until_found(settings: GatewaySettings, loading: float) -> float:
    """Asks every tenth of a second, as the gateway does, and starts the server only after `loading` seconds."""
    server, started, begun = grpc.aio.server(), 0.0, time.monotonic()
    handlers = {"ModelReady": grpc.unary_unary_rpc_method_handler(ready)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)])
    async with grpc_channel(settings) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while True:
            if not started and time.monotonic() - begun > loading:
                server.add_insecure_port(settings.triton_grpc)
                await server.start()
                started = time.monotonic()
            try:
                await stub.ModelReady(service_pb2.ModelReadyRequest(name="tensorrt_llm"), timeout=5)
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                await asyncio.sleep(0.1)
                continue
            await server.stop(None)
            return time.monotonic() - started


def test_a_triton_that_loads_for_long_is_found_at_once(tmp_path: Path) -> None:
    # By its defaults grpcio connects after 0, 1, 2.6 and 5.2 s, each but the first by a fifth sooner or later.
    settings = GatewaySettings(artifact=tmp_path, triton_host="127.0.0.1", triton_grpc_port=Addresses.free().grpc_port)
    assert asyncio.run(seconds_until_found(settings, loading=3.4)) < 0.7
