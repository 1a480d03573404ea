"""The build stage from end to end: checkpoint and profile in, a published artefact out."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from build_engine.cache import Cache
from build_engine.checkpoint import Checkpoint, sha256
from build_engine.engines.torch import ENGINE_VERSION, build_torch_engine
from build_engine.manifest import Manifest, ManifestError, record_files
from build_engine.profiles import EMBEDDED, Profile, ProfileError
from build_engine.repository import TEMPLATES, Places, render_repository, template_files

Progress = Callable[[str], None]

ENGINE, TOKENIZER, REPOSITORY = "engine", "tokenizer", "model_repository"
"""The three parts of an artefact's directory, beside its manifest."""


@dataclass(frozen=True)
class Artifact:
    """A published artefact: what the runtime stage serves."""

    directory: Path
    manifest: Manifest

    @classmethod
    def open(cls, directory: Path) -> "Artifact":
        """Opens a finished artefact; raises `ManifestError` where it is absent, unfinished or damaged."""
        if directory.name.startswith("."):
            raise ManifestError(f"{directory} is the draft of a build that was not finished; run build-engine")
        manifest = Manifest.read(directory)
        manifest.check_sizes(directory)
        return cls(directory, manifest)

    @property
    def repository(self) -> Path:
        return self.directory / REPOSITORY

    @property
    def engine(self) -> Path:
        return self.directory / ENGINE

    @property
    def tokenizer(self) -> Path:
        return self.directory / TOKENIZER


def build(profile: Profile, model: Path | None, cache: Cache, progress: Progress) -> Artifact:
    """Builds `profile`, or finds it built, and returns the artefact.

    `model` is a local checkpoint directory; without one the profile's own model is taken. Raises `CheckpointError`,
    `ProfileError`, `CacheError` or `ManifestError`, each with what to do about it.
    """
    started = time.monotonic()
    checkpoint = Checkpoint.open(model or own_model(profile))
    progress(f"hashing {len(checkpoint.files)} files of {checkpoint.directory}")
    source = {path.name: sha256(path) for path in checkpoint.files}
    key = content_address(profile, source)
    place = cache.place(profile.name, key)
    with cache.lock(place):
        if found := finished(place, progress):
            return found
        with cache.draft(place) as draft:
            make(profile, checkpoint, place, draft, progress)
            manifest = Manifest(
                key=key,
                profile=asdict(profile),
                source=source,
                engine_version=ENGINE_VERSION,
                built_by=f"nimble-coder {version('nimble-coder')}",
                built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - started, 3),
                files=record_files(draft),
            )
            manifest.write(draft)
    progress(f"published {place}")
    return Artifact(place, manifest)


def finished(place: Path, progress: Progress) -> Artifact | None:
    """The artefact at `place` where it is whole; a damaged one is reported and built anew."""
    if not place.is_dir():
        return None
    try:
        artifact = Artifact.open(place)
    except ManifestError as error:
        progress(f"{error} (doing that now)")
        return None
    progress(f"already built: {place}")
    return artifact


def make(profile: Profile, checkpoint: Checkpoint, place: Path, draft: Path, progress: Progress) -> None:
    """Fills `draft` with everything but the manifest; `place` is where it will be once published."""
    engine, tokenizer = draft / ENGINE, draft / TOKENIZER
    progress(f"building the {profile.engine} engine ({profile.precision}, lookahead {profile.lookahead})")
    engine.mkdir()
    build_torch_engine(checkpoint, profile, engine)
    tokenizer.mkdir()
    for path in checkpoint.tokenizer_files:
        shutil.copyfile(path, tokenizer / path.name)
    progress("rendering the model repository")
    render_repository(profile, Places(place / ENGINE, place / TOKENIZER), draft / REPOSITORY)


def own_model(profile: Profile) -> Path:
    """The checkpoint directory that a profile names itself."""
    if profile.model != EMBEDDED:
        raise ProfileError(f"profile {profile.name} needs the weights of {profile.model}: give them with --model DIR")
    return Path(__file__).parent / "embedded_model"


def content_address(profile: Profile, source: dict[str, str]) -> str:
    """SHA-256 over everything that determines an artefact: model, profile, engine layout and repository templates."""
    templates = {str(path.relative_to(TEMPLATES)): sha256(path) for path in template_files()}
    everything = {"profile": asdict(profile), "source": source, "engine": ENGINE_VERSION, "templates": templates}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
