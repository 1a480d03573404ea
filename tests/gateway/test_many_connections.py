"""Connections to the API leave files for the health port: what is only busy is not taken for dead."""

import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from build_engine.artifact import Artifact
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import wait_until
from tests.gateway.test_access import gateway_with
from tests.standin.certificate import make_certificate

BEHIND = 16
"""Files that callers may open in the test."""
FEW = 192
"""Files of a process that would get more."""


def files(gateways: GatewayProcesses) -> list[int]:
    return [int(file.name) for file in Path(f"/proc/{gateways.processes[0].pid}/fd").iterdir()]


@contextmanager
def crowd(gateways: GatewayProcesses, port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections to a port."""
    before = len(files(gateways))
    with ExitStack() as idle:
        there = (gateways.addresses.host, port)
        yield [idle.enter_context(socket.create_connection(there, timeout=60)) for _ in range(count)]
    # Room for those that ask next: the gateway closes these one by one.
    assert wait_until(lambda: len(files(gateways)) < before + BEHIND // 2)


def check_health(gateways: GatewayProcesses) -> None:
    health = f"http://127.0.0.1:{gateways.addresses.metrics_port}/v1/health/live"
    assert httpx.get(health, timeout=10).status_code == 200


def test_idle_connections_do_not_keep_the_health_check_out(gateway: Serving) -> None:
    gateways, addresses = gateway.gateways, gateway.addresses
    (process,) = gateways.processes
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    most = 4 * (max(files(gateways)) + BEHIND) // 3
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        with crowd(gateways, addresses.http_port, most) as connections:
            assert connections[-1].recv(1024).startswith(b"HTTP/1.1 503")
            check_health(gateways)
            refused = httpx.get(f"{addresses.http}/v1/models", timeout=10)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
        assert httpx.get(f"{addresses.http}/v1/models", timeout=10).status_code == 200
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = ("-days", "1", "-addext", "subjectAltName=IP:127.0.0.1")
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.crt", "server", *own)


@pytest.fixture(scope="module")
def narrow(artifact: Artifact, gateway: Serving, certificate: Path) -> Iterator[GatewayProcesses]:
    """With few files, and with TLS."""
    tls = {"tls_certificate": certificate, "tls_key": certificate.with_suffix(".key")}
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, before[1]))
    try:
        with gateway_with(artifact, gateway, certificate.with_name("log"), **tls) as gateways:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            yield gateways
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_nor_do_those_whose_handshake_does_not_begin(narrow: GatewayProcesses, certificate: Path) -> None:
    with crowd(narrow, narrow.addresses.http_port, FEW) as connections:
        assert connections[-1].recv(1024) == b""
        check_health(narrow)
    url = f"https://127.0.0.1:{narrow.addresses.http_port}/v1/models"
    assert httpx.get(url, verify=ssl.create_default_context(cafile=certificate), timeout=10).status_code == 200


def test_nor_do_those_to_the_grpc_port(narrow: GatewayProcesses, certificate: Path) -> None:
    with crowd(narrow, narrow.addresses.grpc_port, FEW) as connections:
        assert connections[-1].recv(1024) == b""
        check_health(narrow)
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    with grpc.secure_channel(narrow.addresses.grpc, credentials) as channel:
        assert channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=30)
