"""Liveness: an engine that stands still is told from one that works, and from one that rests."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from build_engine.artifact import Artifact
from nimble_coder.processes.triton import TritonServer
from tests.gateway.conftest import stand_in_gateway, wait_until


@dataclass
class Watched:
    """A gateway over a stand-in whose steps have a length, and one client of it."""

    triton: TritonServer
    http: httpx.Client
    clients: ThreadPoolExecutor

    def status(self, what: str = "live") -> int:
        return self.http.get(f"/v1/health/{what}").status_code

    def ask(self, max_tokens: int) -> "Future[httpx.Response]":
        body = {"prompt": "def add(a, b):", "max_tokens": max_tokens, "lookahead": False}
        return self.clients.submit(self.http.post, "/v1/completions", json=body)


Watch = Callable[[float, float], AbstractContextManager[Watched]]


@pytest.fixture
def watch(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Starts a gateway that takes so many seconds for a hang, over steps of so many."""

    @contextmanager
    def start(hang_seconds: float, step_seconds: float) -> Iterator[Watched]:
        monkeypatch.setenv("NIMBLE_HANG_SECONDS", str(hang_seconds))
        with (
            stand_in_gateway(artifact, tmp_path, 1, step_seconds) as (triton, gateways),
            httpx.Client(base_url=gateways.addresses.http, timeout=60) as http,
            ThreadPoolExecutor() as clients,
        ):
            yield Watched(triton, http, clients)

    return start


def test_a_step_that_does_not_end_is_no_life(watch: Watch) -> None:
    """The engine's process answers all the while, as it does while a GPU does not."""
    with watch(1.5, 5.0) as watched:
        running = watched.ask(2)
        assert wait_until(lambda: watched.status() == 503)
        assert "stood still" in watched.http.get("/v1/health/live").json()["error"]["message"]
        assert watched.status("ready") == 200
        assert running.result().status_code == 200
        assert wait_until(lambda: watched.status() == 200)


def test_steps_are_life_and_so_is_having_nothing_to_do(watch: Watch) -> None:
    with watch(4, 0.5) as watched:
        running = watched.ask(10)
        while not running.done():
            assert watched.status() == 200
        assert not wait_until(lambda: watched.status() == 503, 5)


def test_a_triton_that_stands_still_is_no_life(watch: Watch) -> None:
    with watch(1, 0.01) as watched:
        os.kill(watched.triton.pid, signal.SIGSTOP)
        try:
            assert wait_until(lambda: watched.status() == 503)
        finally:
            os.kill(watched.triton.pid, signal.SIGCONT)
        assert wait_until(lambda: watched.status() == 200)
