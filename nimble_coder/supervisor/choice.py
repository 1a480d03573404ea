"""Which engine is served: the one that was named, the image's own, or the best for this machine."""

from dataclasses import dataclass
from pathlib import Path

from build_engine.artifact import Artifact
from build_engine.cache import Cache
from build_engine.catalog import MODELS
from build_engine.checkpoint import CheckpointError
from build_engine.exit_codes import ExitCode
from build_engine.hardware import Hardware, detect_hardware
from build_engine.inventory import newest_artifact
from build_engine.local import local_model, open_local
from build_engine.machine import check_serves
from build_engine.manifest import NAME, ManifestError
from build_engine.profiles import CUDA_SM, Profile, find_profile
from build_engine.selection import profile_of, select_profile
from build_engine.versions import IncompatibleError, check_driver_for_pytorch, installed_tensorrt_llm
from nimble_coder.settings.model import Settings


class NoEngineError(ValueError):
    """What was chosen is not here, and may not be built."""

    exit_code = ExitCode.NO_ENGINE


@dataclass(frozen=True)
class Choice:
    """A profile and, where it is here already, its artefact."""

    profile: Profile
    artifact: Artifact | None
    why: str


def choose(settings: Settings) -> Choice:
    """What to serve.

    Raises `ManifestError`, `ProfileError`, `CheckpointError`, `IncompatibleError` or `NoEngineError`.
    """
    choice = _choose(settings)
    if settings.engine_device == "cuda" and choice.profile.is_portable:
        check_gpu(detect_hardware())
    if choice.artifact:
        check_serves(choice.artifact)
    elif not settings.build_on_start:
        raise NoEngineError(
            f"there is no engine of {choice.profile.name} ({choice.why}) in the cache {settings.cache_path}, and "
            f"NIMBLE_BUILD_ON_START is false: fill the cache with `nimble-coder build-engine -p {choice.profile.name}`"
        )
    return choice


def check_gpu(hardware: Hardware) -> None:
    """Raises `IncompatibleError` where the portable engine is to run on a GPU (`NIMBLE_ENGINE_DEVICE`) and cannot."""
    if not any(gpu.sm >= CUDA_SM for gpu in hardware.gpus):
        seen = hardware.note or "; ".join(map(str, hardware.gpus))
        raise IncompatibleError(
            f"the engine is to run on a GPU of compute capability {CUDA_SM / 10} or more, this machine has none "
            f"({seen}): start the container with --gpus all, where the NVIDIA container toolkit is installed, or set "
            f"NIMBLE_ENGINE_DEVICE=cpu"
        )
    if hardware.driver:
        check_driver_for_pytorch(hardware.driver)


def _choose(settings: Settings) -> Choice:
    if settings.artifact:
        return _named(settings.artifact)
    model = (settings.model_name or "").removeprefix("hf://")
    if model and (Path(model) / NAME).is_file():
        return _opened(Path(model), "named as the model")
    if settings.chosen_profile:
        return _found(settings, find_profile(settings.chosen_profile), "the profile asked for")
    if settings.baked_artifact and not model:
        return _opened(settings.baked_artifact, "the image's own")
    check_whole(model)
    if source := local_model(model):
        profile = profile_of(open_local(source), hardware_for(settings))
    else:
        profile = select_profile(hardware_for(settings), model or None, settings.tensor_parallel_size)
    return _found(settings, profile, f"the best profile of {model} here" if model else "the best profile here")


def check_whole(model: str) -> None:
    """Raises `CheckpointError` for a directory that is named from where one stands, and is no name of a model."""
    path = Path(model)
    is_name = path.name.lower() in MODELS and not model.startswith(".")
    if model and not path.is_absolute() and path.is_dir() and not is_name:
        raise CheckpointError(f"{model} is a directory: name it by its whole path, {path.absolute()}")


def hardware_for(settings: Settings) -> Hardware:
    """What a profile is chosen for: this machine, without its GPUs where no engine would run on one."""
    hardware = detect_hardware()
    if settings.engine_device == "cpu" and installed_tensorrt_llm() is None:
        return Hardware((), hardware.driver, "NIMBLE_ENGINE_DEVICE is cpu")
    return hardware


def _named(directory: Path) -> Choice:
    try:
        return _opened(directory, "named by its path")
    except ManifestError as error:
        if directory.exists():
            raise
        other = "a profile is named by --model-profile, a model by --model-name"
        raise ManifestError(f"{error}; {other}") from None


def _opened(directory: Path, why: str) -> Choice:
    artifact = Artifact.open(directory.absolute())
    return Choice(artifact.manifest.profile, artifact, why)


def _found(settings: Settings, profile: Profile, why: str) -> Choice:
    """The profile's artefact, in the image or in the cache; a damaged one counts where no other can be built."""
    if settings.baked_artifact:
        baked = _opened(settings.baked_artifact, f"{why}, the image's own")
        if baked.profile == profile:
            return baked
    try:
        return Choice(profile, newest_artifact(Cache(settings.cache_path), profile), why)
    except ManifestError:
        if settings.build_on_start:
            return Choice(profile, None, why)
        raise
