"""Certificates that the tests make themselves, with `openssl`."""

import subprocess
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

ON_A_CURVE = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
"""A kind of key that takes no time to make."""


def make_certificate(path: Path, name: str, *options: str | Path, key: Sequence[str] = ON_A_CURVE) -> Path:
    """A certificate of `CN=name` at `path`, its own authority where `openssl req`'s options name none; its key lies
    beside it with the suffix `.key`."""
    command = ["openssl", "req", "-x509", "-newkey", *key, "-nodes", "-subj", f"/CN={name}", *options]
    subprocess.run([*command, "-out", path, "-keyout", path.with_suffix(".key")], check=True, capture_output=True)
    return path


AUTHORITY = """\
[ca]
default_ca = own
[own]
database = {0}/index
new_certs_dir = {0}
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
"""


def make_certificate_of_a_time(path: Path, name: str, begin: datetime, end: datetime) -> Path:
    """As `make_certificate`, valid from and until then, which `openssl req` cannot do."""
    request, settings = path.with_suffix(".csr"), path.with_suffix(".cnf")
    key = path.with_suffix(".key")
    (path.parent / "index").write_text("")
    settings.write_text(AUTHORITY.format(path.parent))
    signer = f"-batch -notext -selfsign -startdate {begin:%Y%m%d%H%M%SZ} -enddate {end:%Y%m%d%H%M%SZ}".split()
    made: list[str | Path] = ["-nodes", "-subj", f"/CN={name}", "-out", request, "-keyout", key]
    signed: list[str | Path] = ["-config", settings, "-in", request, "-keyfile", key, "-out", path]
    subprocess.run(["openssl", "req", "-newkey", *ON_A_CURVE, *made], check=True, capture_output=True)
    subprocess.run(["openssl", "ca", *signer, *signed], check=True, capture_output=True)
    return path
