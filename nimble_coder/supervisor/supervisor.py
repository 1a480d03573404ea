"""`nimble-coder serve`: from settings to a service that answers, and to its end."""

import time
from pathlib import Path
from typing import NoReturn

from pydantic import SecretStr

from build_engine.artifact import Artifact
from nimble_coder.gateway.settings import GatewayOptions
from nimble_coder.processes.children import adopt_orphans, reap_orphans
from nimble_coder.processes.errors import OutOfMemoryError
from nimble_coder.processes.kernel_limits import Refusals, narrow_limits
from nimble_coder.processes.log import RECENT_SECONDS, ProcessLog
from nimble_coder.processes.memory import oom_kills
from nimble_coder.processes.open_files import take_open_files
from nimble_coder.processes.ports import in_url
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.shared_memory import check_shared_memory
from nimble_coder.processes.temporary_directory import check_temporary_directory
from nimble_coder.processes.triton import Addresses
from nimble_coder.processes.triton_stack import shortage
from nimble_coder.settings.loading import Loaded
from nimble_coder.settings.model import Settings
from nimble_coder.supervisor.build import StartBuild
from nimble_coder.supervisor.choice import Choice, choose
from nimble_coder.supervisor.files import check_files, check_policy
from nimble_coder.supervisor.start_page import StartPage
from nimble_coder.supervisor.tls import server_context

NAME = "supervisor"
OUT_OF_MEMORY = (
    "the kernel has killed a process of this container because memory ran out: raise the container's limit, or choose "
    "a smaller profile"
)
TLS_FILES = ("tls_certificate", "tls_key", "tls_client_ca")


class Supervisor:
    """The processes of one service. It restarts nothing: whoever runs the container does that."""

    def __init__(self, loaded: Loaded, log: ProcessLog) -> None:
        self._loaded, self._log = loaded, log
        self._build: StartBuild | None = None
        self._started = time.monotonic()

    def run(self) -> None:
        """Serves until `KeyboardInterrupt`, then lets what runs finish.

        Raises what stopped it otherwise, an exception with an `exit_code`; and `KeyboardInterrupt` where it was told to
        stop before it was ready, or a second time.
        """
        adopt_orphans()
        settings, killed, refusals = self._loaded.settings, oom_kills(), Refusals(self._log)
        check_files(self._loaded)
        check_temporary_directory()  # before an engine is built, as the next ones
        check_shared_memory()
        take_open_files()
        tls = server_context(settings)
        settings.listening.check_free()
        for missing in filter(None, (shortage(), *narrow_limits())):
            self._log.say(NAME, missing, "warning")
        try:
            with StartPage(settings.listening, self._reason, tls) as page:
                artifact = self._find(choose(settings))
                check_policy(self._loaded, artifact)
                self._loaded = self._loaded.for_profile(artifact.manifest.profile)
                with serving_of(self._loaded.settings, artifact.directory, self._log) as serving:
                    serving.gateways.wait_listening()
                    page.close()
                    serving.gateways.release()  # so that a client that was told `ready` never gets the page
                    self._serve(serving, settings, refusals)
                    self._say(f"stopping: what runs has {settings.drain_seconds:g} s to finish")
                if error := serving.undrained:
                    raise type(error)(f"a process ended before the last request had finished: {error}")
        except (RuntimeError, OSError) as error:
            if oom_kills() > killed:
                raise OutOfMemoryError(f"{OUT_OF_MEMORY} ({error})") from error
            refusals.check(error)
            raise

    def _find(self, choice: Choice) -> Artifact:
        if choice.artifact:
            self._say(f"serving {choice.artifact.directory} ({choice.why})")
            return choice.artifact
        self._loaded.for_profile(choice.profile)  # what cannot be served is not built
        self._say(f"building {choice.profile.name} ({choice.why}): it is not in {self._loaded.settings.cache_path}")
        self._build = StartBuild(self._loaded.settings, choice.profile, self._log)
        artifact = Artifact.open(self._build.run())
        self._build = None
        return artifact

    def _reason(self) -> str:
        """Why the service is not ready yet."""
        return f"building the engine: {self._build.progress}" if self._build else "the model is loading"

    def _serve(self, serving: Serving, settings: Settings, refusals: Refusals) -> None:
        """Until Ctrl-C or SIGTERM; raises the failure of a process, and `KeyboardInterrupt` where it was told to stop
        before clients could know that the service is ready. Where they could, what they have sent may finish."""
        is_ready = False
        try:
            serving.wait_ready(settings.startup_seconds)
            is_ready = True
            self._say(f"ready after {time.monotonic() - self._started:.1f} s: {where(settings)}")
            self._watch(serving, refusals)
        except KeyboardInterrupt:
            if not (is_ready or serving.gateways.is_ready()):
                raise

    def _watch(self, serving: Serving, refusals: Refusals) -> NoReturn:
        """Raises the failure of a process."""
        moved_on = time.monotonic()
        while True:
            serving.check()
            reap_orphans()
            if time.monotonic() - moved_on > RECENT_SECONDS:
                refusals.move_on()
                moved_on = time.monotonic()
            time.sleep(0.2)

    def _say(self, text: str) -> None:
        self._log.say(NAME, text)


def where(settings: Settings) -> str:
    """The ports, for a person."""
    a = settings.listening
    host = in_url(a.host)
    web = f"{'https' if settings.uses_tls else 'http'}://{host}:{a.http_port}"
    return f"HTTP {web}, gRPC {host}:{a.grpc_port}, metrics {a.metrics}"


def serving_of(settings: Settings, artifact: Path, log: ProcessLog | None) -> Serving:
    """The processes as the settings want them."""
    free = Addresses.free()
    triton = Addresses(
        settings.triton_http_port or free.http_port,
        settings.triton_grpc_port or free.grpc_port,
        settings.triton_metrics_port or free.metrics_port,
        settings.host if settings.expose_triton else settings.triton_host,
        free.held,
    )
    return Serving(
        artifact,
        settings.listening,
        threads=settings.engine_threads,
        device=settings.engine_device,
        max_seq_len=settings.max_model_len,
        drafts=settings.drafts_directory,
        workers=settings.workers,
        log=log,
        settings=gateway_environment(settings),
        triton_addresses=triton,
        changes={"kv_cache_reuse": settings.kv_cache_reuse, "kv_cache_fraction": settings.kv_cache_fraction},
        log_level=settings.log_level,
        drain_seconds=settings.drain_seconds,
        hold=True,
    )


def gateway_environment(settings: Settings) -> dict[str, str]:
    """The gateway's part of the settings as its environment; an empty variable is one that is not set."""
    options = settings if settings.uses_tls else settings.model_copy(update=dict.fromkeys(TLS_FILES))
    return {f"NIMBLE_{name.upper()}": as_text(getattr(options, name)) for name in GatewayOptions.model_fields}


def as_text(value: object) -> str:
    """A setting's value as the environment has it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
