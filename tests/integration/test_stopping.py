"""Triton ends by itself, soon and with exit code 0, whatever its clients have done."""

import asyncio
import io
import os
import shutil
import signal
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from nimble_coder.client.grpc import CompletionClient
from nimble_coder.contract.encoding import Generation
from nimble_coder.gateway.upstream.token_stream import TokenStreams
from nimble_coder.processes import triton
from nimble_coder.processes.errors import TritonError
from nimble_coder.processes.log import Line, ProcessLog
from nimble_coder.processes.triton import Addresses, TritonServer

PROMPT = list(range(100, 110))


@pytest.fixture
def token_level(artifact: Artifact, tmp_path: Path) -> Path:
    """A repository of the token-level model alone, which loads and unloads sooner."""
    shutil.copytree(artifact.repository / "tensorrt_llm", tmp_path / "repository" / "tensorrt_llm")
    return tmp_path / "repository"


def use_client(addresses: Addresses) -> None:
    with CompletionClient(addresses.grpc) as client:
        for _ in range(4):
            assert len(client.stream_tokens(PROMPT, 4).finish().token_ids) == 4
        with client.stream_tokens(PROMPT, 400) as abandoned:
            next(abandoned)


async def use_gateways_streams(addresses: Addresses) -> None:
    streams = TokenStreams(addresses.host, addresses.grpc_port)

    async def run(max_tokens: int, steps: int) -> None:
        async with aclosing(streams.generate(Generation(PROMPT, max_tokens, ()), "stopping")) as answers:
            async for _ in answers:
                if not (steps := steps - 1):
                    break

    await asyncio.gather(*(run(4, 100) for _ in range(4)), run(400, 1))
    await asyncio.sleep(0.2)  # for the trailers of the last one
    streams.close()


def test_a_finished_or_abandoned_request_does_not_keep_its_model_loaded(token_level: Path, tmp_path: Path) -> None:
    with TritonServer(token_level, Addresses.free(), tmp_path / "triton.log") as server:
        server.wait_ready()
        use_client(server.addresses)
        asyncio.run(use_gateways_streams(server.addresses))
        time.sleep(0.5)  # for the engine to see the cancellations
        assert server.stop(grace=30) == 0


def test_a_triton_that_stands_still_in_its_own_crash_is_ended(
    token_level: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does where the heap is broken that it writes its stack with."""
    monkeypatch.setattr(triton, "CRASH_SECONDS", 1.0)
    log = ProcessLog(stream=io.StringIO())
    with TritonServer(token_level, Addresses.free(), log) as server:
        server.wait_ready()
        os.kill(server.pid, signal.SIGSTOP)
        server.check()
        log.recent["triton"].append(Line(time.monotonic(), "Signal (11) received."))
        server.check()
        time.sleep(1.0)
        with pytest.raises(TritonError, match=r"tritonserver crashed .* was killed by SIGKILL"):
            server.check()
