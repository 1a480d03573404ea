"""The runtime stage as one thing: Triton on loopback, the gateway in front of it, started and ended together."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from build_engine.build import Artifact
from nimble_coder.triton.server import Addresses, TritonServer


class ServingError(RuntimeError):
    """The gateway cannot be started or ended before it was asked to; says why."""


@dataclass
class Serving:
    """Triton and its gateways over one artefact. A context manager: leaving it ends every process."""

    artifact: Path
    addresses: Addresses = field(default_factory=Addresses)
    """Where the gateway listens; Triton takes free ports of loopback."""
    threads: int = 1
    """PyTorch threads of the engine."""
    workers: int = 1
    """Gateway processes that share the ports."""
    log: Path | None = None
    """Where all output goes; this process's own stderr where None."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further `NIMBLE_*` settings of the gateway, over those of this process's environment."""

    def __enter__(self) -> "Serving":
        repository = Artifact.open(self.artifact).repository
        self.triton = TritonServer(repository, Addresses.free(), self.log, self.threads)
        self.gateways: list[subprocess.Popen[bytes]] = []
        self.triton.start()
        try:
            self._start_gateways()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def wait_ready(self, timeout: float = 60.0, tick: Callable[[float], None] = lambda _: None) -> float:
        """Waits until a generation has worked and returns the seconds that took; `tick` is told the seconds so far.

        Raises `TritonError` or `ServingError` where a process ends or the time runs out.
        """
        started = time.monotonic()
        self.triton.wait_ready(timeout, tick)
        while (waited := time.monotonic() - started) < timeout:
            self.check()
            if self._answers("/v1/health/ready"):
                return waited
            tick(waited)
            time.sleep(0.05)
        raise ServingError(f"the gateway is not ready after {timeout:.0f} s; its log says why")

    def wait(self) -> None:
        """Waits until Ctrl-C or SIGTERM; raises `ServingError` where a process ends before."""
        try:
            while True:
                self.check()
                time.sleep(0.2)
        except KeyboardInterrupt:
            return

    def check(self) -> None:
        """Raises `ServingError` where a process has ended."""
        if (code := self.triton.poll()) is not None:
            raise ServingError(f"tritonserver ended with code {code}; its log is above")
        for gateway in self.gateways:
            if (code := gateway.poll()) is not None:
                raise ServingError(f"the gateway ended with code {code}; its last line says why")

    def stop(self, grace: float = 40.0) -> None:
        """Ends the gateways, which let running requests finish, and then Triton."""
        for gateway in self.gateways:
            gateway.send_signal(signal.SIGTERM)
        for gateway in self.gateways:
            try:
                gateway.wait(grace)
            except subprocess.TimeoutExpired:
                gateway.kill()
                gateway.wait()
        self.triton.stop()

    def _start_gateways(self) -> None:
        a, t = self.addresses, self.triton.addresses
        environment = {
            **os.environ,
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
        command = [sys.executable, "-m", "nimble_coder.gateway.server"]
        with open(self.log, "ab") if self.log else open(os.dup(2), "wb") as output:  # noqa: PTH123
            for _ in range(self.workers):
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is this process's to handle
                )
                self.gateways.append(process)

    def _answers(self, path: str) -> bool:
        """Asks on the metrics port, which needs neither TLS nor a key."""
        a = self.addresses
        try:
            with urllib.request.urlopen(f"http://{a.host}:{a.metrics_port}{path}", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
