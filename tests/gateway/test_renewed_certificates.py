"""Certificates and the authorities of clients are renewed in their files while the service runs."""

import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
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

LIVE = "/inference.GRPCInferenceService/ServerLive"


def make(directory: Path, name: str) -> Path:
    """A certificate that is its own authority; its key lies beside it."""
    own = ("-days", "1", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    return make_certificate(directory / f"{name}.crt", name, *own)


def has_kept(log: Path, times: int) -> bool:
    """Whether the service has said so often that it keeps what it has."""
    return log.read_text().count("the old ones stay") == times


class Caller:
    """A client with a certificate of its own."""

    def __init__(self, certificate: Path, server: Path, gateway: GatewayProcesses) -> None:
        self._certificate, self._server, self._addresses = certificate, server, gateway.addresses
        self._sessions = self.context()
        self._sessions.maximum_version = ssl.TLSVersion.TLSv1_2

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._server)
        context.load_cert_chain(self._certificate, self._certificate.with_suffix(".key"))
        return context

    def http(self) -> bool:
        """Whether its request is answered."""
        url = f"https://127.0.0.1:{self._addresses.http_port}/v1/models"
        try:
            return httpx.get(url, verify=self.context(), timeout=30).status_code == 200
        except httpx.HTTPError:
            return False

    def grpc(self) -> bool:
        """Whether its call is answered."""
        key, chain = self._certificate.with_suffix(".key").read_bytes(), self._certificate.read_bytes()
        credentials = grpc.ssl_channel_credentials(self._server.read_bytes(), key, chain)
        with grpc.secure_channel(self._addresses.grpc, credentials) as channel:
            try:
                return bool(channel.unary_unary(LIVE)(b"", timeout=30))
            except grpc.RpcError:
                return False

    def resumed(self, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        """The session of TLS 1.2 in which a request was answered, and which may be another that is resumed."""
        with (
            socket.create_connection(("127.0.0.1", self._addresses.http_port), 30) as connection,
            self._sessions.wrap_socket(connection, server_hostname="localhost", session=session) as secure,
        ):
            secure.sendall(b"GET /v1/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert secure.recv(12) == b"HTTP/1.1 200"
            return secure.session


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def authorities(place: Path) -> Path:
    """The file that the service reads; it trusts the first client at the start."""
    file = place / "ca.pem"
    file.write_bytes(make(place, "first").read_bytes())
    return file


@pytest.fixture
def guarded(artifact: Artifact, gateway: Serving, place: Path, authorities: Path) -> Iterator[GatewayProcesses]:
    server = make(place, "server")
    tls = {"tls_certificate": server, "tls_key": server.with_suffix(".key"), "tls_client_ca": authorities}
    with gateway_with(artifact, gateway, place / "log", **tls) as g:
        yield g


def test_an_authority_that_is_taken_out_of_its_file_is_trusted_no_longer(
    guarded: GatewayProcesses, place: Path, authorities: Path
) -> None:
    first = Caller(place / "first.crt", place / "server.crt", guarded)
    second = Caller(make(place, "second"), place / "server.crt", guarded)
    assert [caller() for caller in (first.http, first.grpc, second.http, second.grpc)] == [True, True, False, False]
    session = first.resumed(None)
    authorities.write_bytes((place / "second.crt").read_bytes())
    assert wait_until(lambda: second.http() and second.grpc(), 60)
    assert not first.http()
    assert not first.grpc()
    with pytest.raises((OSError, AssertionError)):
        first.resumed(session)
    spoil_by: list[Callable[[], object]] = [partial(authorities.write_bytes, b"no certificate"), authorities.unlink]
    for times, spoil in enumerate(spoil_by, 1):
        spoil()
        assert wait_until(partial(has_kept, place / "log", times), 60)
        assert [caller() for caller in (first.http, first.grpc, second.http, second.grpc)] == [False, False, True, True]


def test_a_renewed_certificate_is_shown_by_the_next_handshake(guarded: GatewayProcesses, place: Path) -> None:
    old = (place / "server.crt").read_bytes()
    caller = Caller(place / "first.crt", place / "server.crt", guarded)
    make(place, "server")
    assert wait_until(lambda: caller.http() and caller.grpc(), 60)
    (place / "server.crt").write_bytes(old)  # without its key: the new one stays
    (place / "other.crt").write_bytes(old)
    assert wait_until(lambda: "the old ones stay" in (place / "log").read_text(), 60)
    assert not Caller(place / "first.crt", place / "other.crt", guarded).http()
