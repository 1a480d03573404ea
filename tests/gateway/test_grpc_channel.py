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


async def refusals_once_there(settings: GatewaySettings, loading: float) -> int:
    """Asks every tenth of a second, as the gateway does, and starts the server only after `loading` seconds; how often
    it is not found though it is there."""
    server, begun, is_there, refusals = grpc.aio.server(), time.monotonic(), False, 0
    handlers = {"ModelReady": grpc.unary_unary_rpc_method_handler(ready)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)])
    async with grpc_channel(settings) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while True:
            if not is_there and time.monotonic() - begun > loading:
                server.add_insecure_port(settings.triton_grpc)
                await server.start()
                is_there = True
            try:
                await stub.ModelReady(service_pb2.ModelReadyRequest(name="tensorrt_llm"), timeout=5)
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                refusals += is_there
                await asyncio.sleep(0.1)
                continue
            await server.stop(None)
            return refusals


def test_a_triton_that_loads_for_long_is_found_at_once(tmp_path: Path) -> None:
    # By its defaults grpcio connects after 0, 1, 2.6 and 5.2 s, each but the first by a fifth sooner or later: from 3.4
    # on it would be asked seven times or more in vain.
    addresses = Addresses.free()
    settings = GatewaySettings(artifact=tmp_path, triton_host="127.0.0.1", triton_grpc_port=addresses.grpc_port)
    assert asyncio.run(refusals_once_there(settings, loading=3.4)) <= 4
