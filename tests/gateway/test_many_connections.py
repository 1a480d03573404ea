"""Connections to the API leave files for the health port: what is only busy is not taken for dead."""

import resource
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx

from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import wait_until

BEHIND = 16
"""Files that callers may open in the test."""


def test_idle_connections_do_not_keep_the_health_check_out(gateway: Serving) -> None:
    (process,), addresses = gateway.gateways.processes, gateway.addresses
    health = f"http://127.0.0.1:{addresses.metrics_port}/v1/health/live"

    def files() -> list[int]:
        return [int(file.name) for file in Path(f"/proc/{process.pid}/fd").iterdir()]

    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    most = 4 * (max(files()) + BEHIND) // 3
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        with ExitStack() as idle:
            connections = [
                idle.enter_context(socket.create_connection((addresses.host, addresses.http_port))) for _ in range(most)
            ]
            connections[-1].settimeout(60)
            assert connections[-1].recv(1024).startswith(b"HTTP/1.1 503")
            assert httpx.get(health, timeout=10).status_code == 200
            refused = httpx.get(f"{addresses.http}/v1/models", timeout=10)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
        assert wait_until(lambda: len(files()) < most // 2)
        assert httpx.get(f"{addresses.http}/v1/models", timeout=10).status_code == 200
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
