"""What `serve` would do: every setting with where it comes from, and the processes in the order they are started."""

import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nimble_coder.environment import SECRETS
from nimble_coder.processes.gateway import COMMAND
from nimble_coder.processes.shared_memory import check_shared_memory
from nimble_coder.processes.temporary_directory import check_temporary_directory
from nimble_coder.settings.loading import Loaded, is_secret
from nimble_coder.settings.model import Settings
from nimble_coder.supervisor.build import build_command
from nimble_coder.supervisor.choice import Choice, choose
from nimble_coder.supervisor.files import check_files, check_policy
from nimble_coder.supervisor.supervisor import serving_of
from nimble_coder.supervisor.tls import server_context

WORK = "WORK"
"""Stands for the temporary directory that is made at the start."""


def report(loaded: Loaded) -> str:
    """Starts nothing and leaves nothing; raises what starting would raise before anything runs."""
    check_files(loaded)
    check_temporary_directory()
    check_shared_memory()
    server_context(loaded.settings)
    choice = choose(loaded.settings)
    if choice.artifact:
        check_policy(loaded, choice.artifact)
    loaded = loaded.for_profile(choice.profile)
    lines = [*(f"warning: {text}" for text in loaded.warnings), "settings:", *settings_lines(loaded)]
    lines += ["", f"engine: {choice.profile.name} ({choice.why})", "processes:", *processes(loaded, choice)]
    return "\n".join(lines)


def settings_lines(loaded: Loaded) -> Iterator[str]:
    """One line a setting; secrets are masked."""
    for name in Settings.model_fields:
        value = getattr(loaded.settings, name)
        shown = ("***" if value.get_secret_value() else "") if is_secret(name) else "" if value is None else str(value)
        yield f"  {name:<24} {shown:<40} ({loaded.origin(name)})"


def processes(loaded: Loaded, choice: Choice) -> Iterator[str]:
    """The commands, as they would be given to a shell."""
    settings = loaded.settings
    if choice.artifact is None:
        yield f"  [build]   {shlex.join(build_command(settings, choice.profile))}"
        yield "  then, over the engine that it builds, tritonserver and the gateway"
        return
    serving = serving_of(settings, choice.artifact.directory, None)
    with tempfile.TemporaryDirectory() as work:
        serving.prepare(choice.artifact, Path(work))
        command = serving.triton.command(Path(work))
    yield f"  [triton]  {shlex.join(command).replace(str(work), WORK)}"
    told = {
        name: "***" if name in SECRETS else value for name, value in serving.gateways.environment().items() if value
    }
    chosen = [f"{name}={value}" for name, value in told.items()]
    for _ in range(settings.workers):
        yield f"  [gateway] {shlex.join([*chosen, *COMMAND])}"
