"""What is in a cache: artefacts, checkpoints and leftovers, and how to make room."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from build_engine.artifact import Artifact
from build_engine.cache import Cache, is_locked
from build_engine.engine_config import TORCH_ENGINES
from build_engine.manifest import Manifest, ManifestError, OtherVersionError
from build_engine.profiles import Profile
from build_engine.snapshot import PARTIAL, abandoned
from build_engine.versions import installed_tensorrt_llm


@dataclass(frozen=True)
class Entry:
    """One directory of the cache."""

    path: Path
    kind: str
    """`artifact`, `checkpoint` or `leftover`."""
    bytes: int
    state: str
    """`ok`, or what is wrong."""
    is_foreign: bool = False
    """An artefact of another version, which cannot be judged."""
    built_at: str = ""
    profile: str = ""
    verification: str = ""

    @property
    def is_damaged(self) -> bool:
        return self.kind == "artifact" and self.state != "ok" and not self.is_foreign


def inventory(cache: Cache, read_everything: bool = False) -> list[Entry]:
    """Every entry, sorted by path; `read_everything` compares each artefact's content with its hashes."""
    return sorted((*_artifacts(cache, read_everything), *_checkpoints(cache)), key=lambda entry: str(entry.path))


def _artifacts(cache: Cache, read_everything: bool) -> Iterator[Entry]:
    for path in cache.artifacts.glob("*"):
        if path.name.startswith("."):
            if path.is_dir():
                yield Entry(path, "leftover", size_of(path), "of a build that did not finish")
            continue
        try:
            manifest = Manifest.read(path)
            if read_everything:
                manifest.check_hashes(path)
            else:
                manifest.check_sizes(path)
        except ManifestError as error:
            yield Entry(path, "artifact", size_of(path), str(error), isinstance(error, OtherVersionError))
            continue
        status = str((manifest.verification or {}).get("status", "unknown"))
        yield Entry(path, "artifact", size_of(path), "ok", False, manifest.built_at, manifest.profile.name, status)


def _checkpoints(cache: Cache) -> Iterator[Entry]:
    for path in cache.hub.glob("models--*/snapshots/*"):
        repo = path.parents[1].name.removeprefix("models--").replace("--", "/")
        kind = "leftover" if path.name.startswith(".") else "checkpoint"
        yield Entry(path, kind, size_of(path), "ok", profile=repo)
    for blobs in cache.hub.glob("models--*/blobs"):
        for path in (*blobs.glob(f"*{PARTIAL}"), *abandoned(blobs)):
            yield Entry(path, "leftover", path.stat().st_size, "of a download that did not finish")


def newest_artifact(cache: Cache, profile: Profile) -> Artifact | None:
    """The newest whole artefact of a profile, found without asking anybody what its model is today.

    Raises `ManifestError` where there are damaged ones only.
    """
    versions = TORCH_ENGINES if profile.is_portable else (installed_tensorrt_llm(),)
    found, damage = list[Artifact](), None
    for place in cache.artifacts.glob(f"{profile.name}-*"):
        try:
            artifact = Artifact.open(place)
        except ManifestError as error:
            damage = error
            continue
        if artifact.manifest.engine_version in versions and artifact.manifest.profile == profile:
            found.append(artifact)
    if damage and not found:
        raise damage
    return max(found, key=lambda artifact: artifact.manifest.built_at, default=None)


def size_of(*directories: Path) -> int:
    """Bytes of all files, those behind links included; a file that is in several directories counts once."""
    everything = (path for place in directories for path in ((place,) if place.is_file() else place.rglob("*")))
    files = (path.stat() for path in everything if path.is_file())
    return sum({(file.st_dev, file.st_ino): file.st_size for file in files}.values())


def prunable(cache: Cache, superseded: bool) -> list[Entry]:
    """Leftovers that no builder works on, damaged artefacts, and with `superseded` all but the newest of a profile."""
    entries = inventory(cache)
    whole = [entry for entry in entries if entry.kind == "artifact" and entry.state == "ok"]
    newest = {entry.profile: entry.path for entry in sorted(whole, key=lambda entry: entry.built_at)}
    old = [entry for entry in whole if superseded and newest[entry.profile] != entry.path]
    idle = [entry for entry in entries if entry.kind == "leftover" and not in_use(cache, entry.path)]
    return [*idle, *(entry for entry in entries if entry.is_damaged), *old]


def in_use(cache: Cache, leftover: Path) -> bool:
    """True while somebody holds the lock of what the draft will become."""
    name = leftover.name.removeprefix(".").rpartition(".")[0]
    if leftover.suffix == PARTIAL:
        name = leftover.parents[1].name
    return is_locked(cache.artifacts / f".{name}.lock")


def remove(cache: Cache, entry: Entry) -> None:
    """Deletes an entry; raises `CacheError` where the cache is read-only."""
    with cache.writing():
        if entry.path.is_dir():
            shutil.rmtree(entry.path)
        else:
            entry.path.unlink(missing_ok=True)
