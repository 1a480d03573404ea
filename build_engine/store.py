"""Copies an artefact to a directory of its own, to be mounted or shipped where there is no cache."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from build_engine.artifact import ENGINE, PLAIN_ENGINE, REPOSITORY, TOKENIZER, Artifact
from build_engine.cache import CacheError
from build_engine.manifest import record_files
from build_engine.profiles import Profile, ProfileError
from build_engine.repository import places_of, render_repository


def create_store(
    artifact: Artifact, target: Path, mounted_at: Path | None = None, gpus_per_node: int | None = None
) -> Path:
    """Writes engine, tokenizer, model repository and manifest below `target`; returns the model repository.

    `mounted_at` is where the server will see `target`, itself where None: Triton's configuration names absolute paths.
    `gpus_per_node` spreads the engine over several machines with so many GPUs each, which is all that is changed of it.
    Raises `CacheError` where the target is in use, `ProfileError` where the engine cannot be spread so.
    """
    if gpus_per_node:
        check_spread(artifact.manifest.profile, gpus_per_node)
    target = target.absolute()
    if target.exists() and any(target.iterdir()):
        raise CacheError(f"{target} is not empty: give a new directory")
    home, draft = mounted_at or target, target.with_name(f".{target.name}.building")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        parts = [part for part in (ENGINE, PLAIN_ENGINE, TOKENIZER) if (artifact.directory / part).is_dir()]
        for part in parts:
            shutil.copytree(artifact.directory / part, draft / part)
            if gpus_per_node and part != TOKENIZER:
                spread(draft / part / "config.json", gpus_per_node)
        profile = artifact.manifest.profile
        render_repository(profile, places_of(artifact, home, profile), draft / REPOSITORY)
        replace(artifact.manifest, files=record_files(draft)).write(draft)
        if target.exists():
            target.rmdir()
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target / REPOSITORY


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
