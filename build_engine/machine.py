"""The machine that builds or serves, checked to be able to before anything long begins."""

import platform
from dataclasses import dataclass, replace
from pathlib import Path

from build_engine.artifact import Artifact
from build_engine.engine_config import TORCH_ENGINE, TORCH_ENGINES, EngineConfig
from build_engine.hardware import Hardware, detect_hardware
from build_engine.profiles import Profile
from build_engine.selection import matching_gpus
from build_engine.versions import IncompatibleError, check_driver_for_container, check_version, installed_tensorrt_llm

SHELL = frozenset(" \t\r\n\v\f\"'$&;|<>()`\\*?")


@dataclass(frozen=True)
class Machine:
    """One that can build and serve a profile."""

    hardware: Hardware
    engine_version: str

    def record(self) -> dict[str, str]:
        """For the manifest."""
        gpus = "; ".join(f"{gpu.product} ({gpu.memory_mib} MiB)" for gpu in self.hardware.gpus)
        found = {"gpus": gpus, "driver": self.hardware.driver, "python": platform.python_version()}
        return {name: value for name, value in found.items() if value}


def check_machine(profile: Profile, allow_unproven: bool = False) -> Machine:
    """This machine, able to build and serve `profile`; raises `IncompatibleError`."""
    hardware = detect_hardware()
    if profile.is_portable:
        return Machine(hardware, TORCH_ENGINE)
    found = check_version(installed_tensorrt_llm(), allow_unproven)
    matching_gpus(profile, hardware)
    if hardware.driver:
        check_driver_for_container(hardware.driver)
    return Machine(hardware, found)


def unfit_for_triton(path: Path) -> str:
    """What a path has that Triton's Python models could not open; empty where there is nothing.

    To their interpreters names of files are ASCII, whatever the locale is; and Triton (2.51, `stub_launcher.cc`) has a
    shell start them, for which it quotes nothing.
    """
    if not str(path).isascii():
        return "letters beyond ASCII"
    return "blanks or signs that a shell reads" if SHELL & set(str(path)) else ""


def check_path(directory: Path) -> None:
    """Raises `IncompatibleError` for a path that Triton's Python models could not open."""
    if unfit := unfit_for_triton(directory):
        raise IncompatibleError(
            f"{directory} has {unfit}, and Triton's Python opens no such file: give a cache or a place without them"
        )


def check_serves(artifact: Artifact) -> None:
    """Raises `IncompatibleError` where this machine cannot serve the engine: another GPU or TensorRT-LLM, or its path.

    Of an engine for several machines it has to serve one's share.
    """
    check_path(artifact.directory)
    here = min(artifact.manifest.profile.tensor_parallel, EngineConfig.read(artifact.engine).gpus_per_node)
    machine = check_machine(replace(artifact.manifest.profile, tensor_parallel=here), allow_unproven=True)
    readable = TORCH_ENGINES if machine.engine_version == TORCH_ENGINE else (machine.engine_version,)
    if artifact.manifest.engine_version not in readable:
        raise IncompatibleError(
            f"the engine at {artifact.directory} was built by {artifact.manifest.engine_version}, this machine has "
            f"{machine.engine_version}: serve it where it was built, or build it again"
        )
