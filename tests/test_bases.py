"""The base images' digests, asked of a registry that wants a token, as Docker Hub and NVIDIA's do."""

import hashlib
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "requirements" / "bases.py"
BASES = runpy.run_path(str(SCRIPT))
INDEX = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
DIGEST = f"sha256:{hashlib.sha256(INDEX).hexdigest()}"


class Registry(BaseHTTPRequestHandler):
    """Knows one image, and tells of it whoever has asked for a token."""

    told = DIGEST

    def do_GET(self) -> None:
        host = self.headers["Host"]
        if self.path == "/token?service=here&scope=repository%3Abases%2Fpython%3Apull":
            self.answer(200, b'{"token": "guest"}')
        elif self.path != "/v2/bases/python/manifests/3.11":
            self.answer(404, b"{}")
        elif self.headers.get("Authorization") != "Bearer guest":
            asked = f'Bearer realm="http://{host}/token",service="here",scope="repository:bases/python:pull"'
            self.answer(401, b"{}", ("WWW-Authenticate", asked))
        elif not self.headers["Accept"].startswith("application/vnd.oci.image.index"):
            self.answer(406, b"{}")
        else:
            self.answer(200, INDEX, ("Docker-Content-Digest", self.told))

    def answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def registry() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def pin(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(dockerfile)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("before", ["", f"@sha256:{'0' * 64}"])
def test_a_base_is_pinned_to_what_its_tag_means_today(registry: str, tmp_path: Path, before: str) -> None:
    file = tmp_path / "Dockerfile"
    base = f"ARG CPU_BASE_IMAGE={registry}/bases/python:3.11"
    file.write_text(f"# first\n{base}{before}\nFROM ${{CPU_BASE_IMAGE}} AS one\nARG VERSION=0.1.0\n")
    done = pin(file)
    assert done.returncode == 0, done.stderr
    assert file.read_text() == f"# first\n{base}@{DIGEST}\nFROM ${{CPU_BASE_IMAGE}} AS one\nARG VERSION=0.1.0\n"


def test_what_a_registry_does_not_have_changes_nothing(registry: str, tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    text = f"ARG ONE_BASE_IMAGE={registry}/bases/python:3.11\nARG BASE_IMAGE={registry}/bases/python:2.7\n"
    file.write_text(text)
    done = pin(file)
    assert done.returncode == 1
    assert "python:2.7" in done.stderr
    assert "404" in done.stderr
    assert file.read_text() == text


def test_a_digest_that_is_not_the_manifests_is_not_believed(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "told", f"sha256:{'1' * 64}")
    file = tmp_path / "Dockerfile"
    file.write_text(f"ARG BASE_IMAGE={registry}/bases/python:3.11\n")
    assert "but its manifest is" in pin(file).stderr


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("python:3.11", ("https://registry-1.docker.io", "library/python", "3.11")),
        ("docker.io/library/python:3.11", ("https://registry-1.docker.io", "library/python", "3.11")),
        ("mine/python:3.11", ("https://registry-1.docker.io", "mine/python", "3.11")),
        ("nvcr.io/nvidia/tritonserver:25.05", ("https://nvcr.io", "nvidia/tritonserver", "25.05")),
        ("localhost:5001/a/b:1", ("http://localhost:5001", "a/b", "1")),
    ],
)
def test_a_reference_is_read_as_docker_does(image: str, expected: tuple[str, str, str]) -> None:
    assert BASES["place"](image) == expected


def test_every_base_of_the_dockerfile_is_found() -> None:
    text = (ROOT / "Dockerfile").read_text()
    first = set(re.findall(r"^FROM \$\{(\w+)\}", text, re.MULTILINE))
    assert {found[1].removeprefix("ARG ").removesuffix("=") for found in BASES["BASE"].finditer(text)} == first
