"""Certificates that the tests make themselves, with `openssl`."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

ON_A_CURVE = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
"""A kind of key that takes no time to make."""


def make_certificate(path: Path, name: str, *options: str | Path, key: Sequence[str] = ON_A_CURVE) -> Path:
    """A certificate of `CN=name` at `path`, its own authority where `openssl req`'s options name none; its key lies
    beside it with the suffix `.key`."""
    command = ["openssl", "req", "-x509", "-newkey", *key, "-nodes", "-subj", f"/CN={name}", *options]
    subprocess.run([*command, "-out", path, "-keyout", path.with_suffix(".key")], check=True, capture_output=True)
    return path
