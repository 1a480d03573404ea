"""Liveness: an engine that stands still is told from one that works, and from one that rests."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from build_engine.artifact import Artifact
from tests.gateway.conftest import stand_in_gateway, wait_until

BODY = {"prompt": "def add(a, b):", "max_tokens": 2, "lookahead": False}


def test_a_step_that_does_not_end_is_no_life(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's process answers all the while, as it does while a GPU does not."""
    monkeypatch.setenv("NIMBLE_HANG_SECONDS", "1.5")
    with (
        stand_in_gateway(artifact, tmp_path, 1, 5.0) as (_, gateways),
        httpx.Client(base_url=gateways.addresses.http, timeout=60) as http,
        ThreadPoolExecutor() as clients,
    ):
        running = clients.submit(httpx.post, f"{gateways.addresses.http}/v1/completions", json=BODY, timeout=60)
        assert wait_until(lambda: http.get("/v1/health/live").status_code == 503)
        assert "stood still" in http.get("/v1/health/live").json()["error"]["message"]
        assert http.get("/v1/health/ready").status_code == 200
        assert running.result().status_code == 200
        assert wait_until(lambda: http.get("/v1/health/live").status_code == 200)


def test_steps_are_life_and_so_is_having_nothing_to_do(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIMBLE_HANG_SECONDS", "4")
    with (
        stand_in_gateway(artifact, tmp_path, 1, 0.5) as (_, gateways),
        httpx.Client(base_url=gateways.addresses.http, timeout=60) as http,
        ThreadPoolExecutor() as clients,
    ):
        asked = {**BODY, "max_tokens": 10}
        running = clients.submit(httpx.post, f"{gateways.addresses.http}/v1/completions", json=asked, timeout=60)
        while not running.done():
            assert http.get("/v1/health/live").status_code == 200
        assert not wait_until(lambda: http.get("/v1/health/live").status_code == 503, 5)


def test_a_triton_that_stands_still_is_no_life(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIMBLE_HANG_SECONDS", "1")
    with (
        stand_in_gateway(artifact, tmp_path, 1, 0.01) as (triton, gateways),
        httpx.Client(base_url=gateways.addresses.http, timeout=60) as http,
    ):
        os.kill(triton.pid, signal.SIGSTOP)
        try:
            assert wait_until(lambda: http.get("/v1/health/live").status_code == 503)
        finally:
            os.kill(triton.pid, signal.SIGCONT)
        assert wait_until(lambda: http.get("/v1/health/live").status_code == 200)
