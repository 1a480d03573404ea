"""The `tritonserver` process: found, started with the portable backend, watched, and ended."""

import errno
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType

from nimble_coder.environment import without_secrets
from nimble_coder.processes.children import State, how_ended, session_commands
from nimble_coder.processes.errors import HostError, NotReadyError, OutOfMemoryError, PortTakenError, TritonError
from nimble_coder.processes.kernel_compiler import without_unwritable
from nimble_coder.processes.kernel_limits import Refusals
from nimble_coder.processes.log import RECENT_SECONDS, Log, ProcessLog, open_log
from nimble_coder.processes.memory import kill_sooner, oom_kills
from nimble_coder.processes.ports import HeldPorts, check_listenable, in_url
from nimble_coder.processes.stubs import LoadWatch, stubs_of
from nimble_coder.processes.triton_container import ContainerTriton
from nimble_coder.processes.triton_installation import Installation, shared_libpython
from nimble_coder.processes.triton_stack import enough_stack
from nimble_coder.processes.watcher import owned
from nimble_coder.processes.work_directory import WorkDirectory

THREADS, LENGTH, DRAFTS = "NIMBLE_ENGINE_THREADS", "NIMBLE_ENGINE_MAX_LEN", "NIMBLE_ENGINE_DRAFTS"
NO_MEMORY = re.compile(r"out of memory|std::bad_alloc|cannot allocate memory|MemoryError", re.IGNORECASE)
CRASH = re.compile(r"^Signal \((4|6|7|8|11)\) received\.$")
CRASH_SECONDS = 5.0
"""For a tritonserver that crashed to write where. It may never end that, since the heap that it needs may be broken."""
LOADS = 3
"""How often it is started where it gives up a model that is loading; a machine that was busy may be so again."""
LOG_ARGUMENTS = {
    "trace": ("--log-verbose=2",),
    "debug": ("--log-verbose=1",),
    "warning": ("--log-info=false",),
    "error": ("--log-info=false", "--log-warning=false"),
    "critical": ("--log-info=false", "--log-warning=false"),
}


@dataclass(frozen=True)
class Addresses:
    """Where Triton listens; loopback unless it is opened on purpose."""

    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    host: str = "127.0.0.1"
    held: HeldPorts | None = field(default=None, repr=False, compare=False)
    """What keeps them free until Triton listens, which it does behind its models' loading."""

    @classmethod
    def free(cls) -> "Addresses":
        """Three ports that nobody listens on, and that nobody else finds free while these addresses live."""
        held = HeldPorts(3)
        http, grpc, metrics = held.ports
        return cls(http, grpc, metrics, held=held)

    def check_free(self) -> None:
        """Raises `PortTakenError` where somebody listens, also one who would share the port, and `HostError` where this
        machine does not have the host."""
        for port in (self.http_port, self.grpc_port, self.metrics_port):
            try:
                check_listenable(self.host, port)
            except OSError as error:
                if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                    text = f"{self.host} is no address of this machine ({error.strerror}): listen on one that is"
                    raise HostError(f"{text}, or on 0.0.0.0 for all") from None
                raise PortTakenError(
                    f"port {port} on {self.host} cannot be used: {error.strerror}; end what listens there, or "
                    f"choose another port"
                ) from None

    @property
    def peer(self) -> str:
        """The host as a client on this machine writes it."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - a comparison
        return everywhere.get(self.host) or in_url(self.host)

    @property
    def http(self) -> str:
        return f"http://{self.peer}:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"{self.peer}:{self.grpc_port}"

    @property
    def metrics(self) -> str:
        return f"http://{self.peer}:{self.metrics_port}/metrics"


@dataclass
class TritonServer:
    """One `tritonserver` over one model repository. A context manager: leaving it ends the process."""

    repository: Path
    addresses: Addresses = field(default_factory=Addresses)
    log: Log = None
    threads: int | None = None
    """Threads of the portable engine's step on a CPU; None leaves the number to the engine."""
    log_level: str = "info"
    device: str = "auto"
    """What the portable engine runs on: `cpu`, `cuda`, or `auto`."""
    max_seq_len: int | None = None
    """Tokens that the portable engine keeps room for in a sequence; None leaves it as built."""
    drafts: Path | None = None
    """Where the portable engine keeps the texts behind shared drafts over a restart; None keeps them in memory."""

    def __post_init__(self) -> None:
        self._stubs: dict[int, list[str]] = {}

    def __enter__(self) -> "TritonServer":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the process; `wait_ready` tells when it serves."""
        self._work = WorkDirectory("triton")
        work = self._work.create()
        try:
            command = self.command(work)
            library = None if self._container else shared_libpython()
            self.addresses.check_free()
            self._installation.assemble_backends(work / "backends")
        except BaseException:
            self._work.remove()
            raise
        self._refusals, self._killed = Refusals(self.log), oom_kills()
        self._started, self._crashed = time.monotonic(), math.inf
        with open_log(self.log, "triton") as output, enough_stack():
            self._process = subprocess.Popen(
                command,
                env=self._environment(library),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # its stubs too: Ctrl-C is ours to handle, and none may outlive us
            )
        kill_sooner(self.pid)
        self._load = LoadWatch(self.pid)

    def command(self, work: Path) -> list[str]:
        """What is run; `work` will hold the backends. Raises `TritonError` where no Triton is installed."""
        backends = self._installation.backends(work / "backends")
        return self._installation.launch(self._arguments(backends), self._shared_memory(work))

    @cached_property
    def _container(self) -> ContainerTriton | None:
        return ContainerTriton.for_repository(self.repository)

    @cached_property
    def _installation(self) -> "ContainerTriton | Installation":
        return self._container or Installation.find()

    @staticmethod
    def _shared_memory(work: Path) -> str:
        """The beginning of the names of this server's shared-memory regions."""
        return f"nimble-{work.name}-"

    @property
    def models(self) -> list[str]:
        """Every model of the repository."""
        return sorted(config.parent.name for config in self.repository.glob("*/config.pbtxt"))

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code once the process has ended; one that crashed and stands still is ended."""
        self._look_for_crash()
        if self._process.poll() is None and self._crashed < time.monotonic() - CRASH_SECONDS:
            self._process.kill()
            self._process.wait()
        return self._process.poll()

    def _look_for_crash(self) -> None:
        """Remembers when it was first seen: the log keeps few lines, and at debug level many come."""
        if isinstance(self.log, ProcessLog) and self.log.mentions("triton", CRASH, self._started):
            self._crashed = min(self._crashed, time.monotonic())

    def _how_ended(self, code: int) -> str:
        self._look_for_crash()  # its line may have come behind its end
        crashed = self._crashed < math.inf
        return f"tritonserver {'crashed (its log is above) and ' if crashed else ''}{how_ended(code)}"

    def wait(self) -> int | None:
        """Waits for as long as the server runs; returns its exit code, or None where Ctrl-C or SIGTERM came first."""
        try:
            return self._process.wait()
        except KeyboardInterrupt:
            return None

    def wait_ready(self, timeout: float = 60.0, tick: Callable[[float], None] = lambda _: None) -> float:
        """Waits until every model is ready and returns the seconds that took; `tick` is told the seconds so far.

        Raises `TritonError` where the process ends or the time runs out.
        """
        started, loads = time.monotonic(), 1
        while (waited := time.monotonic() - started) < timeout:
            if lost := self._lost_load():
                self._start_again(lost, loads)
                loads += 1
            self._refusals.check()
            # /v2/health/ready says 200 while models are still loading, so each model is asked.
            if all(self._answers(f"/v2/models/{model}/ready") for model in self.models):
                self._stubs = stubs_of(self.pid)
                return waited
            tick(waited)
            time.sleep(0.05)
        raise NotReadyError(f"the models are not ready after {timeout:.0f} s{self._last_words()}")

    def _lost_load(self) -> str:
        """What has ended the loading of the models; empty while it goes on."""
        if (code := self.poll()) is not None:
            return self._how_ended(code)
        if model := self._load.stuck():
            return f"tritonserver waited for ever for the process of {model}"
        return ""

    def _start_again(self, lost: str, loads: int) -> None:
        """Starts it once more where it has given up a model; raises `TritonError` where it has not, or too often."""
        error = self._failure(f"{lost} while it was loading", self._started)
        self._refusals.check(error)
        has_given_up = self._process.returncode in (None, -signal.SIGABRT)
        if not has_given_up or loads == LOADS or isinstance(error, OutOfMemoryError) or oom_kills() > self._killed:
            raise error
        self._say(f"{lost} while it was loading, as on a machine that stood still for a second; it is started again")
        self.stop(0.0)
        self.start()

    def _say(self, text: str) -> None:
        if isinstance(self.log, ProcessLog):
            self.log.say("triton", text, "warning")
            return
        with open_log(self.log, "triton") as output:
            output.write(f"{text}\n".encode())

    def check(self) -> None:
        """Raises `TritonError` where the process has ended, or one of a Python model.

        Triton goes on without it, and without an answer to any request (seen with 2.51).
        """
        since = max(self._started, time.monotonic() - RECENT_SECONDS)
        if (code := self.poll()) is not None:
            raise self._failure(self._how_ended(code), since)
        for pid, command in self._stubs.items():
            state = State.of(pid)
            if state is None or state.is_zombie or state.session != self.pid:
                raise self._failure(f"the process of the model in {command[1]} has ended", since)

    def _failure(self, what: str, since: float) -> TritonError:
        """What has happened, with what Triton's log has said about it since then."""
        if isinstance(self.log, ProcessLog) and self.log.mentions("triton", NO_MEMORY, since):
            return OutOfMemoryError(
                f"{what}, out of memory: its log is above; give it more, or choose a smaller profile"
            )
        return TritonError(f"{what}{self._last_words()}")

    def stop(self, grace: float = 15.0) -> int:
        """Ends the process, letting requests in flight finish for up to `grace` seconds; returns its exit code."""
        try:
            if self.poll() is None:
                self._terminate()
                deadline = time.monotonic() + grace
                while self.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
        finally:  # also when a second Ctrl-C cuts the grace short
            self._end_session()
            self._work.remove()
        return self._process.wait()

    def _terminate(self) -> None:
        """Asks the ranks to end; mpirun, asked itself, would kill them a second or two later, and it ends with them.

        Nobody but mpirun reaches ranks on other machines.
        """
        if self._container and self._container.hosts:
            self._process.terminate()
            return
        commands = session_commands(self.pid)
        for pid in [pid for pid, command in commands.items() if command[0].endswith("tritonserver")] or [self.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _end_session(self) -> None:
        """Stubs outlive a tritonserver that was killed, and ranks an mpirun; they are in its session."""
        for pid in session_commands(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _arguments(self, backends: Path) -> list[str]:
        a = self.addresses
        return [
            f"--model-repository={self.repository}",
            f"--backend-directory={backends}",
            f"--http-address={a.host}",
            f"--http-port={a.http_port}",
            f"--grpc-address={a.host}",
            f"--grpc-port={a.grpc_port}",
            f"--metrics-address={a.host}",
            f"--metrics-port={a.metrics_port}",
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={10}",
            *LOG_ARGUMENTS.get(self.log_level, ()),
        ]

    def _environment(self, library: Path | None) -> dict[str, str]:
        """The stub ignores PYTHONPATH and PYTHONHOME; it takes the environment of the first `python3` in PATH."""
        kept = without_secrets(without_unwritable(os.environ))
        chosen = {THREADS: self.threads, LENGTH: self.max_seq_len, DRAFTS: self.drafts}
        environment = {
            **{name: value for name, value in kept.items() if name not in chosen},
            **{name: str(value) for name, value in chosen.items() if value},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "NIMBLE_ENGINE_DEVICE": self.device,
            "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads sleep instead of taking a core from the others
            **owned(),
        }
        if library:
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(
                filter(None, [str(library), os.environ.get("LD_LIBRARY_PATH")])
            )
        return environment

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(self.addresses.http + path, timeout=2) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _last_words(self) -> str:
        if not isinstance(self.log, Path) or not self.log.is_file():
            return "; its log is above"
        lines = self.log.read_text(errors="replace").splitlines()
        telling = [line for line in lines if "error" in line.lower() or "failed" in line.lower()] or lines
        return ":\n  " + "\n  ".join(telling[-6:]) + f"\n(whole log: {self.log})"
