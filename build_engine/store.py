"""Copies an artefact to a directory of its own, to be mounted or shipped where there is no cache."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from build_engine.artifact import ENGINE, PLAIN_ENGINE, REPOSITORY, TOKENIZER, Artifact
from build_engine.cache import FULL, copy_files, try_writing
from build_engine.exit_codes import ExitCode
from build_engine.manifest import record_files
from build_engine.profiles import Profile, ProfileError
from build_engine.repository import places_of, render_repository


class StoreError(ValueError):
    """A directory that no store can be written to; says why."""

    exit_code = ExitCode.ASKED


class StoreFullError(StoreError):
    """A store that its file system has no room for."""

    exit_code = ExitCode.DISK_FULL


def create_store(
    artifact: Artifact, target: Path, mounted_at: Path | None = None, gpus_per_node: int | None = None
) -> Path:
    """Writes engine, tokenizer, model repository and manifest below `target`; returns the model repository.

    `mounted_at` is where the server will see `target`, itself where None: Triton's configuration names absolute paths.
    `gpus_per_node` spreads the engine over several machines with so many GPUs each, which is all that is changed of it.
    Raises `StoreError` where the target cannot be written, `ProfileError` where the engine cannot be spread so.
    """
    target = target.absolute()
    check_store(artifact.manifest.profile, target, mounted_at, gpus_per_node)
    home, draft = mounted_at or target, draft_of(target)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        parts = [part for part in (ENGINE, PLAIN_ENGINE, TOKENIZER) if (artifact.directory / part).is_dir()]
        for part in parts:
            copy_files(artifact.directory / part, draft / part)
            if gpus_per_node is not None and part != TOKENIZER:
                spread(draft / part / "config.json", gpus_per_node)
        profile = artifact.manifest.profile
        render_repository(profile, places_of(artifact, home, profile), draft / REPOSITORY)
        replace(artifact.manifest, files=record_files(draft)).write(draft)
        if target.exists():
            target.rmdir()
        draft.rename(target)
    except OSError as error:
        raise refusal(target, error) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target / REPOSITORY


def check_store(profile: Profile, target: Path, mounted_at: Path | None, gpus_per_node: int | None) -> None:
    """Raises `StoreError` or `ProfileError` where a store cannot be made so, which takes no engine to know."""
    if gpus_per_node is not None:
        check_spread(profile, gpus_per_node)
    if mounted_at and not mounted_at.is_absolute():
        raise StoreError(f"{mounted_at} is no absolute path: Triton's configuration names where the store is mounted")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise StoreError(f"{target} is {'not empty' if target.is_dir() else 'a file'}: give a new directory")
        if target.is_symlink() or target.is_mount():
            what = "a link" if target.is_symlink() else "where a volume is mounted"
            raise StoreError(f"{target} is {what}, whose place no store can take: give a new directory in it")
        try_writing(target.parent)
        draft_of(target).exists()  # an error of a name too long for a file
    except OSError as error:
        raise refusal(target, error) from None


def draft_of(target: Path) -> Path:
    """Where a store is written, beside the place that it gets when it is whole."""
    return target.with_name(f".{target.name}.building")


def refusal(target: Path, error: OSError) -> StoreError:
    """What the file system's answer means for the store."""
    if error.errno in FULL:
        return StoreFullError(f"the file system of {target} is full: make room, or give another directory")
    return StoreError(f"{target} cannot be made: {error.strerror}; give another directory")


def check_spread(profile: Profile, gpus_per_node: int) -> None:
    """Raises `ProfileError` where the ranks of an engine cannot be spread over machines with so many GPUs each."""
    ranks = profile.tensor_parallel
    if profile.is_portable:
        raise ProfileError("the torch engine runs on one device: leave gpus_per_node out")
    if gpus_per_node < 1 or gpus_per_node >= ranks or ranks % gpus_per_node:
        raise ProfileError(
            f"the {ranks} ranks of {profile.name} cannot be spread over machines with {gpus_per_node} GPUs each: "
            f"choose a divisor of {ranks} that is smaller, or leave gpus_per_node out for one machine"
        )


def spread(config: Path, gpus_per_node: int) -> None:
    """Says in an engine's `config.json` how many of its ranks share a machine, and thereby which GPU each has
    (`gpus_per_node` in gptJsonConfig.cpp, and WorldConfig::getDevice)."""
    content = json.loads(config.read_text(encoding="utf-8"))
    content["pretrained_config"]["mapping"]["gpus_per_node"] = gpus_per_node
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
