"""Gateway processes, from the outside: started, watched and ended."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from nimble_coder.triton.server import Addresses


class GatewayError(RuntimeError):
    """A gateway that cannot be started or ended before it was asked to; says why."""


@dataclass
class GatewayProcesses:
    """One or more gateways on the same ports, in front of one Triton. A context manager: leaving it ends them."""

    artifact: Path
    triton: Addresses
    addresses: Addresses = field(default_factory=Addresses)
    workers: int = 1
    log: Path | None = None
    """Where their output goes; this process's own stderr where None."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further `NIMBLE_*` settings, over those of this process's environment."""

    def __enter__(self) -> "GatewayProcesses":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the processes; `wait_ready` tells when they serve."""
        command = [sys.executable, "-m", "nimble_coder.gateway.server"]
        self.processes: list[subprocess.Popen[bytes]] = []
        self._metrics = tempfile.TemporaryDirectory(prefix="nimble-metrics-")
        with open(self.log, "ab") if self.log else open(os.dup(2), "wb") as output:  # noqa: PTH123
            for _ in range(self.workers):
                process = subprocess.Popen(
                    command,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is this process's to handle
                )
                self.processes.append(process)

    def wait_ready(self, timeout: float = 60.0, tick: Callable[[float], None] = lambda _: None) -> float:
        """Waits until a generation has worked and returns the seconds that took; `tick` is told the seconds so far.

        Raises `GatewayError` where a process ends or the time runs out.
        """
        started = time.monotonic()
        while (waited := time.monotonic() - started) < timeout:
            self.check()
            if self._is_ready():
                return waited
            tick(waited)
            time.sleep(0.05)
        raise GatewayError(f"the gateway is not ready after {timeout:.0f} s; its log says why")

    def check(self) -> None:
        """Raises `GatewayError` where a process has ended."""
        for process in self.processes:
            if (code := process.poll()) is not None:
                raise GatewayError(f"the gateway ended with code {code}; its last line says why")

    def stop(self, grace: float = 40.0) -> None:
        """Ends the processes, which let running requests finish first."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._metrics.cleanup()

    def _environment(self) -> dict[str, str]:
        a, t = self.addresses, self.triton
        # With it the metrics are files that every worker can add up; one worker alone keeps them in memory.
        shared = {"PROMETHEUS_MULTIPROC_DIR": self._metrics.name} if self.workers > 1 else {}
        return {
            **os.environ,
            **shared,
            **self.settings,
            "NIMBLE_ARTIFACT": str(self.artifact.absolute()),
            "NIMBLE_HOST": a.host,
            "NIMBLE_HTTP_PORT": str(a.http_port),
            "NIMBLE_GRPC_PORT": str(a.grpc_port),
            "NIMBLE_METRICS_PORT": str(a.metrics_port),
            "NIMBLE_TRITON_HOST": t.host,
            "NIMBLE_TRITON_HTTP_PORT": str(t.http_port),
            "NIMBLE_TRITON_GRPC_PORT": str(t.grpc_port),
            "NIMBLE_TRITON_METRICS_PORT": str(t.metrics_port),
        }

    def _is_ready(self) -> bool:
        """Asks on the metrics port, which needs neither TLS nor a key."""
        a = self.addresses
        try:
            with urllib.request.urlopen(f"http://{a.host}:{a.metrics_port}/v1/health/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
