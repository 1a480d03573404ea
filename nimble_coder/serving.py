"""The runtime stage as one thing: Triton on loopback, the gateway in front of it, started and ended together."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from build_engine.build import Artifact
from nimble_coder.gateway.process import GatewayProcesses
from nimble_coder.triton.server import Addresses, TritonError, TritonServer


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
        artifact = Artifact.open(self.artifact)
        artifact.check_machine()
        self.triton = TritonServer(artifact.repository, Addresses.free(), self.log, self.threads)
        self.gateways = GatewayProcesses(
            self.artifact, self.triton.addresses, self.addresses, self.workers, self.log, self.settings
        )
        self.triton.start()
        try:
            self.gateways.start()
        except BaseException:
            self.triton.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.gateways.stop()
        # The gateways have let every request finish. Triton (2.51) sometimes goes on waiting for a model that nothing
        # uses any more, until its own exit timeout; unloading takes 3 to 4 s.
        self.triton.stop(grace=5.0)

    def wait_ready(self, timeout: float = 60.0, tick: Callable[[float], None] = lambda _: None) -> float:
        """Waits until a generation has worked and returns the seconds that took; `tick` is told the seconds so far.

        Raises `TritonError` or `GatewayError` where a process ends or the time runs out.
        """
        loading = self.triton.wait_ready(timeout, tick)
        return loading + self.gateways.wait_ready(timeout - loading, lambda seconds: tick(loading + seconds))

    def wait(self) -> None:
        """Waits until Ctrl-C or SIGTERM; raises `TritonError` or `GatewayError` where a process ends before."""
        try:
            while True:
                if (code := self.triton.poll()) is not None:
                    raise TritonError(f"tritonserver ended with code {code}; its log is {self.log or 'above'}")
                self.gateways.check()
                time.sleep(0.2)
        except KeyboardInterrupt:
            return
