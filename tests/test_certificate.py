"""How long a certificate is valid is read from the certificate."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nimble_coder.gateway.access.certificate import valid_until, validity
from tests.standin.certificate import make_certificate


def make(path: Path, *options: str) -> bytes:
    return make_certificate(path, "x", *options).read_bytes()


@pytest.mark.parametrize("days", [1, 90, 36_500])  # from 2050 on the time has another form
def test_the_end_of_a_certificates_validity(tmp_path: Path, days: int) -> None:
    make(tmp_path / "tls.crt", "-days", str(days))
    assert abs(valid_until(tmp_path / "tls.crt") - datetime.now(UTC) - timedelta(days)) < timedelta(minutes=5)


def test_a_chain_is_valid_as_long_as_all_of_it_is(tmp_path: Path) -> None:
    long, short = make(tmp_path / "a", "-days", "90"), make(tmp_path / "b", "-days", "2")
    (tmp_path / "chain").write_bytes(b"a comment\n" + long + b"\n" + short)
    assert valid_until(tmp_path / "chain") == valid_until(tmp_path / "b")


def test_what_is_no_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none").write_bytes(b"\xff no PEM")
    with pytest.raises(ValueError, match="no certificate in PEM"):
        valid_until(tmp_path / "none")
    for der in (b"", b"\x30", b"\x30\x82\xff", bytes(40), b"\x30\x03\x02\x01\x05"):
        with pytest.raises(ValueError, match=r"no X\.509"):
            validity(der)
