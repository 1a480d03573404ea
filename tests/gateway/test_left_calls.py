"""Calls to Triton that somebody leaves at once, and what Triton refuses by itself."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2

from build_engine.artifact import Artifact
from nimble_coder.gateway.kserve.calls import STREAM, Calls
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.settings import GatewaySettings
from nimble_coder.processes.serving import Serving
from tests.gateway.test_relay import request_of


class Triton(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers a request once it was told to stop it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stops: list[str] = []
        self.is_reset = False
        self.stopped, self.ended = threading.Event(), threading.Event()

    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._infer) if details.method == STREAM else None

    def _infer(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for message in requests:
            request = service_pb2.ModelInferRequest.FromString(message)
            if any(tensor.name == "stop" for tensor in request.inputs):
                self.stops.append(request.id)
                self.stopped.set()
            else:
                assert request.parameters["call"].string_param == request.id
                self.asked.append(request.id)
                self.stopped.wait(20)
                self.is_reset = not context.is_active()
                self.ended.set()
            answer = service_pb2.ModelStreamInferResponse()
            answer.infer_response.parameters["triton_final_response"].bool_param = True
            yield answer.SerializeToString()


@pytest.mark.parametrize("model", ["tensorrt_llm", "tensorrt_llm_bls"])
@pytest.mark.parametrize("is_portable", [True, False])
def test_who_leaves_before_the_request_is_sent_has_it_stopped_and_never_reset(
    artifact: Artifact, model: str, is_portable: bool
) -> None:
    """TensorRT-LLM's backend knows the name as the request's id."""
    triton = Triton()
    server = grpc.server(ThreadPoolExecutor(8), handlers=[triton])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    service = Service(GatewaySettings(artifact=artifact.directory, triton_grpc_port=port, triton_http_port=1))

    async def leave() -> None:
        calls = Calls(service)
        calls._is_portable = is_portable
        answers = calls.responses(request_of(model))
        first = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(0)
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        assert await asyncio.to_thread(triton.ended.wait, 20)
        await calls.close()
        service.streams.close()

    asyncio.run(leave())
    server.stop(None).wait()
    assert len(triton.asked) == 1
    assert {*triton.stops} == {*triton.asked}
    assert not triton.is_reset


def test_what_triton_refuses_by_itself_gives_its_place_back_on_a_stream_that_stays(
    gateway: Serving, http: httpx.Client
) -> None:
    """Such an error has no mark of a last response."""
    refused = service_pb2.ModelInferRequest(model_name="ensemble", id="refused")
    refused.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"def f(")
    refused.inputs.add(name="max_tokens", datatype="INT32", shape=[1, 1]).contents.int_contents.append(9)
    refused.parameters["priority"].string_param = "first"

    async def run() -> None:
        is_seen = asyncio.Event()

        async def requests() -> AsyncIterator[bytes]:
            yield refused.SerializeToString()
            await is_seen.wait()

        async with grpc.aio.insecure_channel(gateway.addresses.grpc) as channel:
            call = channel.stream_stream(STREAM)(requests())
            answer = service_pb2.ModelStreamInferResponse.FromString(await anext(aiter(call)))
            assert "'priority'" in answer.error_message
            assert "num_requests_running 0.0" in (await asyncio.to_thread(http.get, "/metrics")).text
            is_seen.set()

    asyncio.run(run())
