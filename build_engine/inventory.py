"""What is in a cache: artefacts, checkpoints and leftovers, and how to make room."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from build_engine.artifact import Artifact
from build_engine.cache import Cache, is_locked
from build_engine.engine_config import TORCH_ENGINES
from build_engine.manifest import NAME, Manifest, ManifestError, OtherVersionError
from build_engine.profiles import Profile
from build_engine.snapshot import PARTIAL, abandoned
from build_engine.versions import installed_tensorrt_llm

PUBLISHED, DRAFT = re.compile(r"[^.].*-[0-9a-f]{16}"), re.compile(r"\..*\.(building|replaced)")
"""Names that a build gives. Others are somebody's own: a directory that is no cache may have `artifacts`."""


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
    """An artefact of another version, which cannot be judged, or what no build has put there."""
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
            if DRAFT.fullmatch(path.name) and path.is_dir():
                yield Entry(path, "leftover", size_of(path), "of a build that did not finish")
            continue
        try:
            manifest = Manifest.read(path)
            if read_everything:
                manifest.check_hashes(path)
            else:
                manifest.check_sizes(path)
        except ManifestError as error:
            is_ours = PUBLISHED.fullmatch(path.name) or (path / NAME).is_file()
            is_foreign = isinstance(error, OtherVersionError) or not is_ours
            yield Entry(path, "artifact", size_of(path), str(error), is_foreign)
            continue
        status = str((manifest.verification or {}).get("status", "unknown"))
        yield Entry(path, "artifact", size_of(path), "ok", False, manifest.built_at, manifest.profile.name, status)


def _checkpoints(cache: Cache) -> Iterator[Entry]:
    for path in cache.hub.glob("models--*/snapshots/*"):
        repo = path.parents[1].name.removeprefix("models--").replace("--", "/")
        kind = "leftover" if DRAFT.fullmatch(path.name) else "checkpoint"
        yield Entry(path, kind, size_of(path), "ok", profile=repo)
    for blobs in cache.hub.glob("models--*/blobs"):
        for path in (*blobs.glob(f"*{PARTIAL}"), *abandoned(blobs)):
            yield Entry(path, "leftover", size_of(path), "of a download that did not finish")


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


def size_of(*places: Path) -> int:
    """Bytes of all files, those behind links included; a file that is in several places counts once.

    What a builder or a download renames or removes meanwhile counts or does not.
    """
    found = dict[tuple[int, int], int]()
    for place in places:
        below = (Path(folder, name) for folder, _, names in os.walk(place) for name in names)
        for path in (place, *below) if not place.is_dir() else below:
            with suppress(OSError):
                file = path.stat()
                found[file.st_dev, file.st_ino] = file.st_size
    return sum(found.values())


def prunable(cache: Cache, superseded: bool) -> list[Entry]:
    """Leftovers and damaged artefacts that no builder works on, and with `superseded` all but the newest of a
    profile."""
    entries = inventory(cache)
    whole = [entry for entry in entries if entry.kind == "artifact" and entry.state == "ok"]
    newest = {entry.profile: entry.path for entry in sorted(whole, key=lambda entry: entry.built_at)}
    old = [entry for entry in whole if superseded and newest[entry.profile] != entry.path]
    broken = [entry for entry in entries if entry.kind == "leftover" or entry.is_damaged]
    return [*(entry for entry in broken if not in_use(cache, entry)), *old]


def in_use(cache: Cache, entry: Entry) -> bool:
    """True while somebody holds the lock of the artefact, or of what the draft will become."""
    path = entry.path
    name = path.name.removeprefix(".").rpartition(".")[0] if entry.kind == "leftover" else path.name
    if path.suffix == PARTIAL:
        name = path.parents[1].name
    return is_locked(cache.artifacts / f".{name}.lock")


def remove(cache: Cache, entry: Entry) -> None:
    """Deletes an entry, of a link the link alone; raises `CacheError` where the cache is read-only."""
    with cache.writing():
        if entry.path.is_dir() and not entry.path.is_symlink():
            shutil.rmtree(entry.path)
        else:
            entry.path.unlink(missing_ok=True)
