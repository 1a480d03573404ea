"""`nimble-coder serve` as a container runs it: a process with an environment, an output and an exit code."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from build_engine.artifact import Artifact
from nimble_coder.processes.children import command_of, descendants
from nimble_coder.processes.triton import Addresses
from nimble_coder.processes.work_directory import sweep
from tests.standin.in_process import call

COMMAND = [sys.executable, "-m", "nimble_coder.cli"]


TRITON_LOST = 13
"""The exit code where Triton has ended by itself."""


@dataclass
class Service:
    """A running `serve`."""

    process: "subprocess.Popen[bytes]"
    addresses: Addresses
    log: Path

    @property
    def output(self) -> list[str]:
        """The lines so far."""
        return self.log.read_text(errors="replace").splitlines()

    @property
    def last_line(self) -> str:
        return self.output[-1]

    def wait_until(self, holds: Callable[[], bool], seconds: float = 120.0) -> None:
        """Fails where it does not hold in time, or the process has ended."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    @property
    def is_ready(self) -> bool:
        return any("ready after" in line for line in self.output)

    def wait_ready(self) -> None:
        """Until it says that it is."""
        self.wait_until(lambda: self.is_ready)
        assert self.status("/v1/health/ready") == 200

    def status(self, path: str) -> int:
        """What the metrics port says; 0 where nobody listens."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.addresses.metrics_port}{path}", timeout=5).status_code
        except httpx.TransportError:
            return 0

    def children(self, name: str) -> list[int]:
        """Descendants with that in their command lines."""
        found = []
        for pid in descendants(self.process.pid):
            if any(name in part for part in command_of(pid)[:3]):
                found.append(pid)
        return found


def is_alive(pid: int) -> bool:
    """Running, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def environment_of(addresses: Addresses, **settings: object) -> dict[str, str]:
    """This machine's environment without settings, and those that are given."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("NIM_", "NIMBLE_"))}
    ports = {
        "NIMBLE_HTTP_PORT": addresses.http_port,
        "NIMBLE_GRPC_PORT": addresses.grpc_port,
        "NIMBLE_METRICS_PORT": addresses.metrics_port,
    }
    return {**own, **{name: str(value) for name, value in {**ports, **settings}.items()}}


def serve(*options: str, **settings: object) -> "subprocess.CompletedProcess[str]":
    """A start that ends by itself, in the process of the tests."""
    return call(Path(), "serve", *options, environment=environment_of(Addresses.free(), **settings))


Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts services on free ports; what a test leaves running is ended."""
    started: list[Service] = []

    def go(*options: str, prefix: tuple[str, ...] = (), **settings: object) -> Service:
        addresses, log = Addresses.free(), tmp_path / f"serve-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*prefix, *COMMAND, "serve", *options],
                env=environment_of(addresses, **settings),
                stdout=output,
                stderr=output,
            )
        started.append(Service(process, addresses, log))
        return started[-1]

    yield go
    for service in started:
        # How a service ends when it is told to has its own tests, and takes 5 s.
        for pid in [service.process.pid, *descendants(service.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        service.process.wait()
    sweep()


@pytest.fixture
def served(start: Start, artifact: Artifact) -> Service:
    """The embedded model, ready."""
    service = start(NIMBLE_ARTIFACT=artifact.directory, NIMBLE_DRAIN_SECONDS=20)
    service.wait_until(lambda: service.is_ready or service.process.poll() == TRITON_LOST)
    if service.process.poll() == TRITON_LOST:
        # Triton can abort while it loads on a machine that gives it too little time (docs/triton-workarounds.md).
        service = start(NIMBLE_ARTIFACT=artifact.directory, NIMBLE_DRAIN_SECONDS=20)
        service.wait_ready()
    return service
