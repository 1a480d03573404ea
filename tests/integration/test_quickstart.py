"""The quickstart does the main job, says so, and leaves nothing running, however it ends."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from build_engine.exit_codes import ExitCode
from nimble_coder.processes.triton import Addresses
from tests.conftest import MakeCheckpoint
from tests.standin.in_process import call

ROOT = Path(__file__).parents[2]


def quickstart(cache: Path, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "nimble_coder.commands.quickstart", *arguments]
    environment = {**os.environ, "NIMBLE_CACHE": str(cache), **settings}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment
    )


def read_until(process: "subprocess.Popen[str]", text: str) -> None:
    """Reads the output up to the line with that text."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return


def processes_of(cache: Path) -> list[str]:
    """Command lines of running processes that were given the cache: the quickstart and all that it has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"NIMBLE_CACHE={cache}\0".encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """An empty one; all that names it has ended when the test has."""
    place = tmp_path / "a[/b]:bug:"  # as people, and other programs, may call directories
    yield place
    deadline = time.monotonic() + 60
    while left := processes_of(place):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.fixture
def filled_cache(cache: Path, artifact: Artifact) -> Path:
    """One in which the embedded model is built already: to build and verify it takes longer than to serve it."""
    shutil.copytree(artifact.directory, cache / "artifacts" / artifact.directory.name)
    return cache


def test_once_completes_measures_and_ends(cache: Path) -> None:
    output, _ = quickstart(cache, "--once", "--free-ports").communicate(timeout=280)
    assert "one completion over gRPC" in output
    assert "one completion over HTTP" in output
    assert re.search(r"plain \d+ tokens/s, lookahead \d+ tokens/s: \d\.\d\dx, with \d\.\d\d tokens accepted", output)
    grpc, http = (output.split(f"one completion over {kind}\n")[1].split("==>")[0] for kind in ("gRPC", "HTTP"))
    assert grpc == http  # lookahead over gRPC and the ensemble over HTTP: one model, one output
    assert len(grpc.splitlines()) > 8


def test_a_model_from_a_directory_chats_fills_in_and_calls_a_tool(cache: Path, make_checkpoint: MakeCheckpoint) -> None:
    """Also where the directory is named from somewhere else, and the second time without building."""
    checkpoint = make_checkpoint("tiny", head_dim=64)  # which the compiled step takes: PyTorch is not loaded
    command = [
        sys.executable,
        "-P",
        "-m",
        "nimble_coder.commands.quickstart",
        "--cache",
        str(cache),
        "--once",
        "--free-ports",
    ]
    for _ in range(2):
        answer = subprocess.run(
            [*command, "--from", checkpoint.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=checkpoint.parent,
            check=False,
        )
        assert answer.returncode == 0, answer.stdout
    for shown in ("already built", "one chat: Write", "one infill", "one tool call: What", "tokens/s: "):
        assert shown in answer.stdout, answer.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--model", "qwen2.5-coder-0.6b"], 2, "there is no model 'qwen2.5-coder-0.6b'; known models: "),
        (["--model", "qwen2.5-coder-32b-instruct"], 2, "(the quickstart has the portable engine alone, for models up"),
        (["--from", "/nowhere"], 4, "or a GGUF file; a published model is named by --model "),
    ],
)
def test_what_cannot_be_had_is_said_at_once(cache: Path, arguments: list[str], code: int, reason: str) -> None:
    process = quickstart(cache, "--once", "--free-ports", *arguments)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert reason in output.replace("\n", " ")
    assert "Traceback" not in output


def test_the_settings_ports_are_taken_and_one_that_is_in_use_is_said_before_anything_is_built(cache: Path) -> None:
    addresses = Addresses.free()
    ports = {"HTTP": addresses.http_port, "GRPC": addresses.grpc_port, "METRICS": addresses.metrics_port}
    settings = {f"NIMBLE_{kind}_PORT": str(port) for kind, port in ports.items()}
    with socket.create_server(("127.0.0.1", addresses.grpc_port)):
        process = quickstart(cache, "--once", **settings)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == ExitCode.PORT, output
    assert f"port {addresses.grpc_port} on 127.0.0.1 cannot be used" in output
    assert "--free-ports" in output
    assert not cache.exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_on_until_it_is_told_to_stop(filled_cache: Path, how: signal.Signals) -> None:
    process = quickstart(filled_cache, "--free-ports")
    read_until(process, "serving until Ctrl-C")
    assert sum("tritonserver" in line or "gateway" in line for line in processes_of(filled_cache)) >= 2
    process.send_signal(how)
    rest, _ = process.communicate(timeout=120)
    assert "Traceback" not in rest
    assert process.returncode == 0


def test_an_interrupt_before_it_is_ready_ends_everything(filled_cache: Path) -> None:
    process = quickstart(filled_cache, "--free-ports")
    read_until(process, "starting Triton")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert "Traceback" not in rest
    assert process.returncode == 130


def test_a_server_that_dies_is_reported(filled_cache: Path) -> None:
    process = quickstart(filled_cache, "--free-ports")
    read_until(process, "serving until Ctrl-C")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if b"tritonserver" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)
    rest, _ = process.communicate(timeout=120)
    assert "tritonserver was killed by SIGKILL" in rest
    assert process.returncode == ExitCode.TRITON


def test_a_taken_port_is_named(artifact: Artifact) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        served = call(ROOT, "serve", str(artifact.directory), "--http-port", str(port))
    assert served.returncode == 11
    assert f"port {port} on 127.0.0.1 cannot be used" in served.stderr
    assert "Traceback" not in served.stderr
