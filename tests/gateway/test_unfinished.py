"""Requests that never end take no memory of a service with keys, little of an open one, and give it back."""

import asyncio
import resource
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest
import tritonclient.grpc as triton_grpc

from build_engine.artifact import Artifact
from nimble_coder.gateway.exchange import READERS
from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import wait_until
from tests.gateway.test_access import gateway_with
from tests.gateway.unfinished import INFER, SIZE, Begin, begin_body, begin_call, crowd, memory

COUNT, SECONDS, MIB = 500, 1.5, 1 << 20
READY = "/inference.GRPCInferenceService/ModelReady"
LIVE = "/inference.GRPCInferenceService/ServerLive"


@pytest.fixture
def open_files() -> Iterator[None]:
    """Enough of them for the clients."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("open_files")
@pytest.mark.parametrize(
    "begin",
    [
        begin_call,
        partial(begin_call, method=READY),
        partial(begin_call, method=LIVE),
        begin_body,
        partial(begin_body, path="/v2/models/ensemble/generate"),
        partial(begin_body, path="/v1/models"),
    ],
    ids=["ModelInfer", "ModelReady", "ServerLive", "completions", "generate", "GET route"],
)
def test_callers_without_a_key_take_no_memory(
    artifact: Artifact, gateway: Serving, tmp_path: Path, begin: Begin
) -> None:
    with gateway_with(artifact, gateway, tmp_path / "log", api_keys="k") as g:
        pid, port = g.processes[0].pid, g.addresses.grpc_port if "call" in str(begin) else g.addresses.http_port
        before, _ = memory(pid)
        asyncio.run(crowd(begin, g.addresses.host, port, COUNT, SECONDS))
        assert memory(pid)[1] - before < 64
        assert wait_until(lambda: memory(pid)[0] - before < 40, 60)
        headers = {"authorization": "Bearer k"}
        assert httpx.get(f"{g.addresses.http}/v1/models", headers=headers, timeout=30).status_code == 200
        with triton_grpc.InferenceServerClient(g.addresses.grpc) as client:
            assert client.is_model_ready("tensorrt_llm")
            assert client.get_server_metadata(headers=headers).name == "triton"


@pytest.mark.usefixtures("open_files")
@pytest.mark.parametrize("begin", [begin_call, begin_body], ids=["gRPC", "HTTP"])
def test_an_open_service_reads_a_few_large_messages_at_once(
    artifact: Artifact, gateway: Serving, tmp_path: Path, begin: Begin
) -> None:
    with gateway_with(artifact, gateway, tmp_path / "log") as g:
        pid, port = g.processes[0].pid, g.addresses.grpc_port if begin is begin_call else g.addresses.http_port
        before, _ = memory(pid)
        asyncio.run(crowd(begin, g.addresses.host, port, COUNT, SECONDS))
        assert memory(pid)[1] - before < 2 * READERS * SIZE / MIB + COUNT * 0.2
        assert wait_until(lambda: memory(pid)[0] - before < 50, 60)


def test_a_call_without_a_message_and_one_with_a_message_that_is_too_large_are_refused(gateway: Serving) -> None:
    with grpc.insecure_channel(gateway.addresses.grpc) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(INFER)(iter([])))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(b"x" * (SIZE + 1))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_small_bodies_wait_for_no_large_ones(gateway: Serving) -> None:
    a = gateway.addresses
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {SIZE}\r\n\r\n".encode()
    slow = [socket.create_connection((a.host, a.http_port)) for _ in range(2 * READERS)]
    for connection in slow:
        connection.sendall(head + b"x" * 1000)
    answer = httpx.post(f"{a.http}/v1/completions", json={"prompt": "import os", "max_tokens": 1}, timeout=30)
    assert answer.status_code == 200
    for connection in slow:
        connection.close()
    large = {"prompt": "import os", "max_tokens": 1, "unknown": "x" * 100_000}
    assert httpx.post(f"{a.http}/v1/completions", json=large, timeout=30).status_code == 200
