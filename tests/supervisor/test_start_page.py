"""What the ports answer before the gateway has them."""

import socket
import ssl
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from nimble_coder.processes.triton import Addresses
from nimble_coder.settings.loading import load
from nimble_coder.supervisor import start_page
from nimble_coder.supervisor.start_page import StartPage
from nimble_coder.supervisor.tls import TlsError, server_context
from tests.supervisor.test_in_effect import certificate


def test_liveness_is_told_and_all_else_is_refused_with_the_reason_in_clients_own_words() -> None:
    addresses = Addresses.free()
    with StartPage(addresses, lambda: "downloading", None), httpx.Client(base_url=addresses.http) as http:
        assert http.get("/v1/health/live?x=1").status_code == 200
        ready = http.get("/v1/health/ready")
        assert (ready.status_code, ready.json()["message"]) == (503, "Service is not ready: downloading")
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
            answer = http.request(method, "/v1/models")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
            assert answer.json()["error"]["message"] == "the service is starting: downloading"
        assert http.head("/v1/models").status_code == 503
        assert httpx.get(f"http://127.0.0.1:{addresses.metrics_port}/v1/health/ready").status_code == 503


def test_the_http_port_speaks_tls_where_the_service_will(tmp_path: Path) -> None:
    file = certificate(tmp_path, "server")
    settings = load({}, {"NIMBLE_TLS_CERTIFICATE": str(file), "NIMBLE_TLS_KEY": str(file.with_suffix(".key"))}).settings
    addresses = Addresses.free()
    with StartPage(addresses, lambda: "x", server_context(settings)):
        # Somebody who connects and says nothing keeps nobody waiting.
        with socket.create_connection(("127.0.0.1", addresses.http_port)):
            url = f"https://127.0.0.1:{addresses.http_port}/v1/health/live"
            assert httpx.get(url, verify=ssl.create_default_context(cafile=file)).status_code == 200
        assert httpx.get(f"http://127.0.0.1:{addresses.metrics_port}/v1/health/live").status_code == 200


def test_the_ports_are_free_again_and_were_shared() -> None:
    addresses = Addresses.free()
    with StartPage(addresses, lambda: "x", None) as page:
        with socket.socket() as gateway:
            gateway.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            gateway.bind(("127.0.0.1", addresses.http_port))
        page.close()
        addresses.check_free()


def test_authorities_that_are_none_are_refused(tmp_path: Path) -> None:
    file = certificate(tmp_path, "server")
    environment = {"NIMBLE_TLS_CERTIFICATE": str(file), "NIMBLE_TLS_KEY": str(file.with_suffix(".key"))}
    with pytest.raises(TlsError, match="holds no certificates"):
        server_context(load({}, {**environment, "NIMBLE_TLS_CLIENT_CA": __file__}).settings)


def test_a_client_that_sends_more_than_is_read_gets_the_reason_and_not_a_reset() -> None:
    addresses = Addresses.free()
    with StartPage(addresses, lambda: "x", None):
        for _ in range(5):
            answer = httpx.post(f"{addresses.http}/v1/completions", json={"prompt": "x" * 4_000_000})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")


def test_idle_connections_take_a_bounded_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_page, "THREADS", 4)
    addresses, before = Addresses.free(), threading.active_count()
    with StartPage(addresses, lambda: "x", None), ExitStack() as idle:
        there = (addresses.host, addresses.http_port)
        connections = [idle.enter_context(socket.create_connection(there)) for _ in range(8)]
        assert connections[-1].recv(1) == b""
        assert threading.active_count() <= before + 2 + 4
        assert httpx.get(f"http://127.0.0.1:{addresses.metrics_port}/v1/health/live").status_code == 200


def test_a_key_that_is_encrypted_is_named_and_no_terminal_asked(tmp_path: Path) -> None:
    file = certificate(tmp_path, "server")
    command: list[str | Path] = ["openssl", "pkey", "-in", file.with_suffix(".key"), "-aes256", "-passout", "pass:x"]
    subprocess.run([*command, "-out", tmp_path / "encrypted"], check=True)
    environment = {"NIMBLE_TLS_CERTIFICATE": str(file), "NIMBLE_TLS_KEY": str(tmp_path / "encrypted")}
    with pytest.raises(TlsError, match=r"the key in .*/encrypted is encrypted: give it without a passphrase"):
        server_context(load({}, environment).settings)
