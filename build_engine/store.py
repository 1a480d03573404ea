"""Copies an artefact to a directory of its own, to be mounted or shipped where there is no cache."""

import shutil
from dataclasses import replace
from pathlib import Path

from build_engine.artifact import ENGINE, PLAIN_ENGINE, REPOSITORY, TOKENIZER, Artifact
from build_engine.cache import CacheError
from build_engine.manifest import record_files
from build_engine.repository import places_of, render_repository


def create_store(artifact: Artifact, target: Path, mounted_at: Path | None = None) -> Path:
    """Writes engine, tokenizer, model repository and manifest below `target`; returns the model repository.

    `mounted_at` is where the server will see `target`, itself where None: Triton's configuration names absolute paths.
    Raises `CacheError` where the target is in use.
    """
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
        profile = artifact.manifest.profile
        render_repository(profile, places_of(artifact, home, profile), draft / REPOSITORY)
        replace(artifact.manifest, files=record_files(draft)).write(draft)
        if target.exists():
            target.rmdir()
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target / REPOSITORY
