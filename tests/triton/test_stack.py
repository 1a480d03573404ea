"""Triton survives the largest body over HTTP, however it comes."""

import json
import resource
import shutil
import socket
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from nimble_coder.processes import triton_stack as stack
from tests.conftest import running_triton

FREE, MIB = resource.RLIM_INFINITY, 1 << 20


def test_a_body_in_a_great_many_pieces_does_not_end_triton(artifact: Artifact, tmp_path: Path) -> None:
    shutil.copytree(artifact.repository / "preprocessing", tmp_path / "repository" / "preprocessing")
    with running_triton(tmp_path / "repository", tmp_path / "log") as triton:
        limits = Path(f"/proc/{triton.pid}/limits").read_text()
        assert f"Max stack size {stack.STACK}" in " ".join(limits.split())
        head = b"POST /v2/models/preprocessing/generate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        frame = json.dumps({"id": ""}).encode()
        body = frame[:-2] + b"x" * (stack.largest_body() - len(frame)) + frame[-2:]
        pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        with socket.create_connection((triton.addresses.host, triton.addresses.http_port), timeout=60) as connection:
            connection.sendall(head + pieces + b"0\r\n\r\n")
            assert connection.recv(15) == b"HTTP/1.1 400 Ba"
        triton.check()


@pytest.mark.parametrize(
    ("limits", "stack_bytes", "body"),
    [
        ((8 * MIB, FREE), 64 * MIB, 2 * MIB),
        ((FREE, FREE), 64 * MIB, 2 * MIB),  # the C library's own idea of no limit is 2 MiB a thread
        ((256 * MIB, FREE), 256 * MIB, 2 * MIB),
        ((8 * MIB, 16 * MIB), 16 * MIB, 512 * 1024),
        ((8 * MIB, 8 * MIB), 8 * MIB, 256 * 1024),
    ],
)
def test_bodies_fit_the_stack_that_can_be_had(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], stack_bytes: int, body: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    assert (stack.stack_bytes(), stack.largest_body()) == (stack_bytes, body)
    assert ("--ulimit stack=67108864" in stack.shortage()) == (stack_bytes < 64 * MIB)
