"""The runtime stage as one thing: Triton on loopback, the gateway in front of it, started and ended together."""

import filecmp
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from build_engine.artifact import Artifact
from build_engine.machine import check_serves
from build_engine.repository import places_of, render_repository
from nimble_coder.processes.errors import TritonError
from nimble_coder.processes.gateway import GatewayError, GatewayProcesses
from nimble_coder.processes.log import Log
from nimble_coder.processes.open_files import take_open_files
from nimble_coder.processes.shared_memory import check_shared_memory
from nimble_coder.processes.temporary_directory import check_temporary_directory
from nimble_coder.processes.triton import Addresses, TritonServer
from nimble_coder.processes.work_directory import WorkDirectory, sweep

END_SECONDS = 10.0
"""For everything to end behind the drain: docs/operations.md tells orchestrators to give so much."""
GATEWAY_SECONDS, TRITON_SECONDS = 5.0, 5.0
"""Of them, for the gateways, which end their last streams and connections in 3 s, and for Triton."""


@dataclass
class Serving:
    """Triton and its gateways over one artefact. A context manager: leaving it ends every process."""

    artifact: Path
    addresses: Addresses = field(default_factory=Addresses)
    """Where the gateway listens."""
    threads: int | None = None
    """Threads of the portable engine's step on a CPU; None leaves the number to the engine."""
    device: str = "auto"
    """What the portable engine runs on."""
    max_seq_len: int | None = None
    """Tokens that the portable engine keeps room for in a sequence; None leaves it as built."""
    drafts: Path | None = None
    """Where the texts behind shared drafts outlive a restart; None keeps them in memory alone."""
    workers: int = 1
    """Gateway processes that share the ports."""
    log: Log = None
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further `NIMBLE_*` settings of the gateway, over those of this process's environment."""
    triton_addresses: Addresses | None = None
    """Where Triton listens; free ports of loopback where None."""
    changes: Mapping[str, object] = field(default_factory=dict)
    """What the engine's profile says of serving, where it is to be otherwise: the KV cache's share and its reuse."""
    log_level: str = "info"
    """Of Triton."""
    drain_seconds: float = 30.0
    hold: bool = False
    """Not to be called ready before `gateways.release()`: another answers on the ports until then."""
    undrained: TritonError | GatewayError | None = field(default=None, init=False)
    """After the end: why not all processes have lived to see the last request finish."""

    def __enter__(self) -> "Serving":
        artifact = Artifact.open(self.artifact)
        check_serves(artifact)
        check_temporary_directory()
        check_shared_memory()
        take_open_files()
        sweep()
        self._work = WorkDirectory("serving")
        try:
            self.prepare(artifact, self._work.create())
            self.triton.start()
            try:
                if self.hold:
                    self.gateways.hold()
                self.gateways.start()
            except BaseException:
                self.gateways.stop(0.0)
                self.triton.stop()
                raise
        except BaseException:
            self._work.remove()
            raise
        return self

    def prepare(self, artifact: Artifact, work: Path) -> None:
        """Makes the two objects, with what they need in `work`; starts nothing."""
        repository = served_repository(artifact, self.changes, work / "model_repository")
        addresses = self.triton_addresses or Addresses.free()
        self.triton = TritonServer(
            repository, addresses, self.log, self.threads, self.log_level, self.device, self.max_seq_len, self.drafts
        )
        self.gateways = GatewayProcesses(
            self.artifact, addresses, self.addresses, self.workers, self.log, self.settings
        )

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._end(self.drain_seconds if kind is None else None)
        except KeyboardInterrupt:  # a second Ctrl-C, maybe before the gateways were told of the first
            self._end(None)
            raise

    def _end(self, drain_seconds: float | None) -> None:
        """Ends every process; what runs has so many seconds to finish, and none without them."""
        deadline = time.monotonic() + (drain_seconds or 0) + END_SECONDS
        grace = 0.0
        try:
            self.gateways.stop(0.0 if drain_seconds is None else drain_seconds + GATEWAY_SECONDS)
            try:
                self.triton.check()
                self.gateways.check_drained()
            except (TritonError, GatewayError) as error:
                self.undrained = error
            # The gateways have let every request finish; unloading takes 3 to 4 s. Longer is not waited: a foreign
            # client's reset can make Triton (2.51) keep a model until its exit timeout (docs/triton-workarounds.md).
            if drain_seconds is not None:
                grace = min(max(deadline - time.monotonic(), 0.0), TRITON_SECONDS)
        finally:  # without any grace where a second Ctrl-C came
            self.triton.stop(grace)
            self._work.remove()

    def wait_ready(self, timeout: float = 60.0, tick: Callable[[float], None] = lambda _: None) -> float:
        """Waits until a generation has worked and returns the seconds that took; `tick` is told the seconds so far.

        Raises `TritonError` or `GatewayError` where a process ends or the time runs out.
        """
        loading = self.triton.wait_ready(timeout, tick)
        return loading + self.gateways.wait_ready(timeout - loading, lambda seconds: tick(loading + seconds))

    def check(self) -> None:
        """Raises `TritonError` or `GatewayError` where a process has ended."""
        self.triton.check()
        self.gateways.check()

    def wait(self) -> None:
        """Waits until Ctrl-C or SIGTERM; raises `TritonError` or `GatewayError` where a process ends before."""
        try:
            while True:
                self.check()
                time.sleep(0.2)
        except KeyboardInterrupt:
            return


def served_repository(artifact: Artifact, changes: Mapping[str, object], place: Path) -> Path:
    """The artefact's model repository where it is what is to be served; otherwise one rendered anew at `place`.

    It is another where the profile is served otherwise, where the artefact was moved (Triton's configuration names
    absolute paths, and a cache may be mounted anywhere), and where an older release has built it.
    """
    profile = replace(artifact.manifest.profile, **changes)  # type: ignore[arg-type] # the settings' types
    render_repository(profile, places_of(artifact, artifact.directory, profile), place)
    rendered = [path.relative_to(place) for path in place.rglob("*") if path.is_file()]
    _, different, missing = filecmp.cmpfiles(place, artifact.repository, map(str, rendered), shallow=False)
    return place if different or missing else artifact.repository
