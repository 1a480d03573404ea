"""A build before the first start, as a process of its own: what it loads is gone when the engine is served."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from build_engine.cache import Cache
from build_engine.exit_codes import ExitCode
from build_engine.local import local_model
from build_engine.profiles import Profile
from nimble_coder.environment import without_secrets
from nimble_coder.processes.children import how_ended
from nimble_coder.processes.log import ProcessLog
from nimble_coder.processes.watcher import owned
from nimble_coder.settings.model import Settings
from nimble_coder.supervisor.files import nearest

SECONDS_BETWEEN = 30.0
"""Between two lines about a build that says nothing itself."""


class StartBuildError(RuntimeError):
    """The build failed; the reason is its own, and so is the exit code."""

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.exit_code = code


def build_command(settings: Settings, profile: Profile, download_only: bool = False) -> list[str]:
    """The command that builds what is to be served, or downloads what that is made from."""
    source = None if settings.chosen_profile else local_model(settings.model_name)
    what = ["--model", str(source)] if source else ["--profile", profile.name]
    name = "download-to-cache" if download_only else "build-engine"
    command = [sys.executable, "-m", "nimble_coder.cli", name, *what]
    command += ["--cache", str(settings.cache_path.expanduser()), "--revision", settings.model_revision]
    return command if download_only else [*command, "--workers", str(profile.tensor_parallel)]


def hub_environment(settings: Settings) -> dict[str, str]:
    """What huggingface_hub reads."""
    found = {
        # Beside the checkpoints: a home directory may be read-only, and nobody has one under a random uid.
        "HF_HOME": os.environ.get("HF_HOME") or str(Cache(settings.cache_path).hub.parent),
        "HF_TOKEN": settings.hf_token.get_secret_value(),
        "HF_ENDPOINT": settings.hf_endpoint or "",
        "HF_HUB_OFFLINE": "1" if settings.hf_hub_offline else "",
    }
    return {name: value for name, value in found.items() if value}


class StartBuild:
    """One build, watched."""

    def __init__(self, settings: Settings, profile: Profile, log: ProcessLog, download_only: bool = False) -> None:
        self._settings, self._profile, self._log = settings, profile, log
        self._download_only = download_only

    @property
    def progress(self) -> str:
        """The last thing that the build said."""
        lines = self._log.recent.get("build")
        return lines[-1].text.strip() if lines else "starting"

    def run(self) -> Path:
        """Returns the artefact's directory, or the checkpoint's; raises `StartBuildError`."""
        command = build_command(self._settings, self._profile, self._download_only)
        with self._log.open("build") as output:
            process = subprocess.Popen(
                command,
                env={**without_secrets(os.environ), **hub_environment(self._settings), **owned()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
                text=True,
            )
        try:
            printed = self._wait(process)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(3)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if process.returncode:
            self._log.close(0.5)
            code = process.returncode if process.returncode > 0 else ExitCode.BUILD
            reason = self.progress.removeprefix("error: ")
            raise StartBuildError(f"the build {how_ended(process.returncode)}: {reason}", code)
        return Path(printed.strip())

    def _wait(self, process: "subprocess.Popen[str]") -> str:
        started, place = time.monotonic(), self._settings.cache_path.expanduser()
        place = nearest(place)
        used = shutil.disk_usage(place).used
        while True:
            said = self.progress
            try:
                return process.communicate(timeout=SECONDS_BETWEEN)[0]
            except subprocess.TimeoutExpired:
                if said == self.progress:
                    written = (shutil.disk_usage(place).used - used) / 1e9
                    so_far = f"{time.monotonic() - started:.0f} s and {written:.2f} GB of disk so far"
                    self._log.say("build", f"{so_far}: {said.strip()}")
