"""Certificates that are renewed wrongly: the old one is shown on, that is told once, and the right one is taken up."""

import logging
import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from prometheus_client import Gauge

from nimble_coder.gateway.access.tls import Tls
from tests.standin.busy import no_file_to_open
from tests.standin.certificate import make_certificate, make_certificate_of_a_time

NOW = datetime.now(UTC)
Spoil = Callable[[Path, Path], object]
"""Takes certificate and key."""


def of_a_time(begin: timedelta, end: timedelta) -> Spoil:
    return lambda certificate, _: make_certificate_of_a_time(certificate, "x", NOW + begin, NOW + end)


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def a_directory(certificate: Path, _: Path) -> None:
    certificate.unlink()
    certificate.mkdir()


def of_another_key(certificate: Path, key: Path) -> None:
    kept = key.read_bytes()
    make_certificate(certificate, "another")
    key.write_bytes(kept)


SPOILT: dict[str, Spoil] = {
    "half": lambda certificate, _: half(certificate),
    "half of the key": lambda _, key: half(key),
    "empty": lambda certificate, _: certificate.write_bytes(b""),
    "no key": lambda _, key: key.unlink(),
    "gone": lambda certificate, _: certificate.unlink(),
    "a directory": a_directory,
    "of another key": of_another_key,
    "expired": of_a_time(timedelta(-2), timedelta(-1)),
    "not valid yet": of_a_time(timedelta(1), timedelta(2)),
}


class Service:
    """Both ports' sides of TLS, without a gateway."""

    def __init__(self, folder: Path) -> None:
        self.certificate = make_certificate(folder / "tls.crt", "old")
        self.key = self.certificate.with_suffix(".key")
        self.unusable = Gauge("unusable", "-", registry=None)
        self.tls = Tls(self.certificate, self.key, None, Gauge("ends", "-", registry=None), self.unusable)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, self.key)
        self.grpc = grpc.server(None)
        self._port = self.grpc.add_secure_port("127.0.0.1:0", self.tls.grpc_credentials())
        self.grpc.start()

    def renew(self) -> None:
        """What the gateway does every few seconds."""
        self.tls.renew(self._context)

    def shown(self) -> set[str]:
        """The certificates that clients get now, over HTTP and over gRPC."""
        return {self._over_http(), ssl.get_server_certificate(("127.0.0.1", self._port), timeout=30)}

    def _over_http(self) -> str:
        asks, answers = ssl.MemoryBIO(), ssl.MemoryBIO()
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        client = trusting.wrap_bio(answers, asks)
        server = self._context.wrap_bio(asks, answers, server_side=True)
        for side in (client, server, client):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        found = client.getpeercert(binary_form=True)
        assert found
        return ssl.DER_cert_to_PEM_cert(found)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.grpc.stop(None)


def warnings(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("how", SPOILT)
def test_the_old_certificate_is_shown_until_the_right_one_is_there(
    service: Service, caplog: pytest.LogCaptureFixture, tmp_path: Path, how: str
) -> None:
    old = service.shown()
    assert old == {service.certificate.read_text()}
    SPOILT[how](service.certificate, service.key)
    for _ in range(3):
        service.renew()
        assert service.shown() == old
    assert (warnings(caplog), service.unusable._value.get()) == (1, 1)
    if service.certificate.is_dir():
        service.certificate.rmdir()
    right = make_certificate(tmp_path / "right.crt", "right")
    shutil.copyfile(right, service.certificate)
    shutil.copyfile(right.with_suffix(".key"), service.key)
    service.renew()
    assert service.shown() == {right.read_text()}
    assert (warnings(caplog), service.unusable._value.get()) == (1, 0)


def test_files_that_are_put_back_are_no_fault_any_more(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    old, content = service.shown(), service.certificate.read_bytes()
    half(service.certificate)
    service.renew()
    service.certificate.write_bytes(content)
    service.renew()
    assert (service.shown(), service.unusable._value.get(), warnings(caplog)) == (old, 0, 1)


def test_a_certificate_that_could_not_be_opened_just_now_is_taken_up_without_another_change(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    make_certificate(service.certificate, "new")
    with no_file_to_open():
        service.renew()
        service.renew()
    assert warnings(caplog) == 1
    service.renew()
    assert service.shown() == {service.certificate.read_text()}
