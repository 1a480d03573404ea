"""Gateway processes, from the outside: started, watched and ended."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from build_engine.exit_codes import ExitCode
from nimble_coder.environment import KEYS, TRACES, without_secrets
from nimble_coder.processes.children import how_ended
from nimble_coder.processes.errors import TritonError
from nimble_coder.processes.kernel_limits import Refusals
from nimble_coder.processes.log import Log, open_log
from nimble_coder.processes.memory import kill_sooner
from nimble_coder.processes.triton import Addresses
from nimble_coder.processes.watcher import owned
from nimble_coder.processes.work_directory import WorkDirectory

ABANDON, ABANDON_SECONDS, LAST_SECONDS = signal.SIGUSR1, 6.0, 1.0
"""Has a gateway tell every request that it ends now, and end; how long that may take, and how long behind a grace that
was long enough to end in: then it most likely stands still."""
COMMAND = [sys.executable, "-m", "nimble_coder.gateway.server"]
THRIFTY = {"MALLOC_ARENA_MAX": "1"}
"""What keeps memory small where many connect at once. A heap of its own for each thread (glibc's malloc) is given back
late: beside other work 500 callers without a key took 32 to 51 MiB with many heaps, 28 to 38 with one. gRPC's older
listener (1.85, `GRPC_EXPERIMENTS=-event_engine_listener`) would save them another 8, but reads one caller's frames for
as long as they come: with two who sent window updates without end, a call of somebody else took 3.6 s, and takes 5 ms
without it."""


class GatewayError(RuntimeError):
    """A gateway that cannot be started or ended before it was asked to; says why."""

    exit_code = ExitCode.GATEWAY


@dataclass
class GatewayProcesses:
    """One or more gateways on the same ports, in front of one Triton. A context manager: leaving it ends them."""

    artifact: Path
    triton: Addresses
    addresses: Addresses = field(default_factory=Addresses)
    workers: int = 1
    log: Log = None
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further `NIMBLE_*` settings, over those of this process's environment."""

    def __post_init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self._killed: list[subprocess.Popen[bytes]] = []
        self._work = WorkDirectory("metrics")
        self._hold = self._work.path / "hold"

    def __enter__(self) -> "GatewayProcesses":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the processes; `wait_ready` tells when they serve."""
        self.processes = []
        self._work.create()
        self._refusals = Refusals(self.log)
        with open_log(self.log, "gateway") as output:
            for _ in range(self.workers):
                process = subprocess.Popen(
                    COMMAND,
                    env={**THRIFTY, **without_secrets(os.environ, (*KEYS, *TRACES)), **self.environment(), **owned()},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is this process's to handle
                )
                kill_sooner(process.pid)
                self.processes.append(process)

    def wait_ready(self, timeout: float = 60.0, tick: Callable[[float], None] = lambda _: None) -> float:
        """Waits until a generation has worked and returns the seconds that took; `tick` is told the seconds so far.

        Raises `GatewayError` where a process ends or the time runs out, `TaskLimitError` where the kernel refuses one.
        """
        started = time.monotonic()
        while (waited := time.monotonic() - started) < timeout:
            self.check()
            self._refusals.check()
            if self.is_ready():
                return waited
            tick(waited)
            time.sleep(0.05)
        raise GatewayError(f"the gateway is not ready after {timeout:.0f} s; its log says why")

    def hold(self) -> None:
        """Lets no client be told that the service is ready before `release`; to be called before `start`."""
        self._work.create()
        self._hold.touch()

    def release(self) -> None:
        """Ends `hold`."""
        self._hold.unlink(missing_ok=True)

    def wait_listening(self, timeout: float = 60.0) -> None:
        """Waits until a gateway answers, ready or not; raises `GatewayError` or `TaskLimitError`.

        Only a gateway numbers its answers: somebody else may listen on the same port, and get the connection.
        """
        deadline = time.monotonic() + timeout
        while "x-request-id" not in self._headers("/v1/health/live"):
            self.check()
            self._refusals.check()
            if time.monotonic() > deadline:
                raise GatewayError(f"the gateway does not listen after {timeout:.0f} s; its log says why")
            time.sleep(0.05)

    def check(self) -> None:
        """Raises `GatewayError` where a process has ended, `TritonError` where it did because of the engine."""
        for process in self.processes:
            if (code := process.poll()) == ExitCode.TRITON:
                raise TritonError(
                    "the engine's process has died or does not run any more; the gateway's last line says why"
                )
            if code is not None:
                raise GatewayError(f"the gateway {how_ended(code)}; its last line says why")

    def check_drained(self) -> None:
        """After `stop`: raises `GatewayError`, or `TritonError`, where a process has not ended as it should."""
        for process in self.processes:
            if process in self._killed:
                raise GatewayError(f"the gateway (process {process.pid}) stood still, and was killed")
            if process.returncode:
                kind = TritonError if process.returncode == ExitCode.TRITON else GatewayError
                raise kind(f"the gateway {how_ended(process.returncode)}; its last line says why")

    def stop(self, grace: float = 40.0) -> None:
        """Ends the processes, which let running requests finish first; after `grace` seconds they are killed."""
        deadline = time.monotonic() + grace
        seconds = ABANDON_SECONDS
        try:
            for process in self.processes:
                process.terminate()
            for process in self.processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(deadline - time.monotonic(), 0))
            if grace:
                seconds = LAST_SECONDS
        finally:  # also when a second Ctrl-C cuts the grace short
            self._abandon(seconds)
            self._killed = [process for process in self.processes if process.poll() is None]
            for process in self.processes:
                process.kill()
                process.wait()
            self._work.remove()

    def _abandon(self, seconds: float) -> None:
        """What still runs is told in its stream; then there is nothing left to wait for."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(ABANDON)
        deadline = time.monotonic() + seconds
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0))

    def environment(self) -> dict[str, str]:
        """What each process is told, beside this one's environment."""
        a, t = self.addresses, self.triton
        # With it the metrics are files that every worker can add up; one worker alone keeps them in memory.
        shared = {"PROMETHEUS_MULTIPROC_DIR": str(self._work.path)} if self.workers > 1 else {}
        return {
            **shared,
            **self.settings,
            "NIMBLE_ARTIFACT": str(self.artifact.absolute()),
            "NIMBLE_HOLD": str(self._hold),
            "NIMBLE_HOST": a.host,
            "NIMBLE_HTTP_PORT": str(a.http_port),
            "NIMBLE_GRPC_PORT": str(a.grpc_port),
            "NIMBLE_METRICS_PORT": str(a.metrics_port),
            "NIMBLE_TRITON_HOST": t.host,
            "NIMBLE_TRITON_HTTP_PORT": str(t.http_port),
            "NIMBLE_TRITON_GRPC_PORT": str(t.grpc_port),
            "NIMBLE_TRITON_METRICS_PORT": str(t.metrics_port),
        }

    def is_ready(self) -> bool:
        """Whether clients are told that the service is ready."""
        return bool(self._headers("/v1/health/ready"))

    def _headers(self, path: str) -> Mapping[str, str]:
        """Of a good answer from the metrics port, which needs neither TLS nor a key; empty where there is none."""
        a = self.addresses
        try:
            with urllib.request.urlopen(f"http://{a.peer}:{a.metrics_port}{path}", timeout=2) as answer:
                return {name.lower(): value for name, value in answer.headers.items()}
        except (urllib.error.URLError, OSError):
            return {}
