"""The playground: one HTML file without outside assets, served at `/`."""

from functools import cache
from pathlib import Path

HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        b"connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
]
"""The page may talk to this service and to nothing else."""


@cache
def page() -> bytes:
    """The page."""
    return (Path(__file__).parent / "index.html").read_bytes()
