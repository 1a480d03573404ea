"""How long a certificate is valid, and a certificate with its key."""

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
SOON = timedelta(days=14)
"""Before its end a certificate should have been renewed; the alert and the doctor say so."""
EXPLICIT_VERSION, UTC_TIME = 0xA0, 0x17


def valid_until(file: Path) -> datetime:
    """When the first of a PEM file's certificates ends to be valid; raises `OSError`, and `ValueError` for no PEM."""
    return min(end for _, end in validities(file))


def check_valid(file: Path) -> None:
    """Raises `ValueError` where clients would refuse a PEM file's own certificate, which comes first, for its time."""
    (begin, end), *_ = validities(file)
    now = datetime.now(UTC)
    if now < begin:
        raise ValueError(f"the certificate in {file} is not valid before {begin.isoformat()}")
    if now > end:
        raise ValueError(f"the certificate in {file} has expired, at {end.isoformat()}")


def validities(file: Path) -> list[tuple[datetime, datetime]]:
    """From when until when each certificate of a PEM file is valid; raises `OSError`, and `ValueError` for no PEM."""
    found = [validity(ssl.PEM_cert_to_DER_cert(block.decode("ascii"))) for block in PEM.findall(file.read_bytes())]
    if not found:
        raise ValueError(f"{file} holds no certificate in PEM")
    return found


def validity(der: bytes) -> tuple[datetime, datetime]:
    """The two times of a certificate's validity (RFC 5280, 4.1); raises `ValueError`."""
    try:
        (_, certificate), *_ = elements(der)
        (_, signed), *_ = elements(certificate)
        fields = [(tag, content) for tag, content in elements(signed) if tag != EXPLICIT_VERSION]
        begin, end = (time_of(tag, content) for tag, content in elements(fields[3][1]))
    except (IndexError, ValueError):
        raise ValueError("this is no X.509 certificate") from None
    return begin, end


def time_of(tag: int, content: bytes) -> datetime:
    """A time of DER; raises `ValueError`."""
    form = "%y%m%d%H%M%SZ" if tag == UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(content.decode("ascii"), form).replace(tzinfo=UTC)


def elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tags and contents of what lies in a DER sequence (X.690, 8.1); raises `IndexError` where it is cut."""
    place = 0
    while place < len(der):
        tag, size, place = der[place], der[place + 1], place + 2
        if size & 0x80:
            count = size & 0x7F
            size, place = int.from_bytes(der[place : place + count], "big"), place + count
        yield tag, der[place : place + size]
        place += size


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Has a context show a certificate; raises `OSError` for files that are no such pair, and `ValueError` for a key
    that is encrypted: OpenSSL would ask the terminal for its passphrase, and wait."""

    def refuse() -> str:
        raise ValueError(f"the key in {key} is encrypted: give it without a passphrase (openssl pkey)")

    context.load_cert_chain(certificate, key, refuse)
