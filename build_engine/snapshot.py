"""One commit of a hub repository as the cache keeps it: its place, its names, and which of its files are verified."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine.cache import Cache, is_locked
from build_engine.checkpoint import sha256

PARTIAL = ".partial"


@dataclass(frozen=True)
class Snapshot:
    """In the layout of huggingface_hub: `models--OWNER--NAME/{snapshots/COMMIT,refs/BRANCH}`."""

    cache: Cache
    repo: str
    commit: str

    @classmethod
    def named(cls, cache: Cache, repo: str, revision: str) -> "Snapshot":
        """The commit that a branch or tag stood for when it was last asked for; a commit is its own name."""
        ref = cls(cache, repo, revision).ref(revision)
        try:
            commit = ref.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):  # absent or damaged, or no name of a file: the hub is asked
            commit = ""
        return cls(cache, repo, commit or revision)

    @property
    def directory(self) -> Path:
        return self.storage / "snapshots" / self.commit

    def blob(self, etag: str) -> Path:
        """Where the content is that snapshots link to; of a file in large-file storage the ETag is its SHA-256."""
        return self.storage / "blobs" / etag

    def sweep(self) -> None:
        """Makes the place of the content, and removes what killed downloads of huggingface_hub left there."""
        blobs = self.storage / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        for path in abandoned(blobs):
            path.unlink(missing_ok=True)

    def ref(self, revision: str) -> Path:
        """The file that says which commit a branch or tag is."""
        return self.storage / "refs" / revision

    def name(self, revision: str) -> None:
        """Lets a machine without a network find the commit by a branch's or tag's name; a cache that has it already may
        be read-only."""
        if self.named(self.cache, self.repo, revision).commit != self.commit:
            with self.cache.writing():
                self.ref(revision).parent.mkdir(parents=True, exist_ok=True)
                self.ref(revision).write_text(self.commit, encoding="utf-8")

    def verified(self) -> dict[str, str]:
        """File name to SHA-256, for the files that were verified and have not been touched since."""
        try:
            record: dict[str, Any] = json.loads(self._record.read_text(encoding="utf-8"))
            return {name: entry["sha256"] for name, entry in record.items() if self._state(name) == entry["state"]}
        except (OSError, ValueError, AttributeError, KeyError, TypeError):  # absent or damaged: it is made again
            return {}

    def note_verified(self, hashes: Mapping[str, str | None]) -> dict[str, str]:
        """Notes files as verified, so that nobody reads 60 GB again to know it; a SHA-256 not given is computed.

        Returns `verified()`. Nothing is written where all is noted already: the cache may be read-only.
        """
        known = self.verified()
        if known.keys() >= hashes.keys():
            return known
        for name, given in hashes.items():
            known[name] = known.get(name) or given or sha256(self.directory / name)
        record = {name: {"sha256": found, "state": self._state(name)} for name, found in known.items()}
        draft = self._record.with_name(f".{self._record.name}.{time.monotonic_ns()}")
        with self.cache.writing():
            self._record.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            draft.replace(self._record)
        return known

    def _state(self, name: str) -> list[int] | None:
        """Size and time of change, which no other content has by chance."""
        path = self.directory / name
        return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None

    @property
    def storage(self) -> Path:
        """The repository's directory."""
        return self.cache.hub / f"models--{self.repo.replace('/', '--')}"

    @property
    def _record(self) -> Path:
        return self.cache.root / "verified" / f"{self.repo.replace('/', '--')}@{self.commit}.json"


def abandoned(blobs: Path) -> Iterator[Path]:
    """Beginnings of files that huggingface_hub never goes on with: it holds `.locks/REPOSITORY/ETAG.lock` while it
    works, and gives every attempt a new name, `ETAG.RANDOM.incomplete`."""
    for path in blobs.glob("*.incomplete"):
        lock = blobs.parents[1] / ".locks" / blobs.parent.name / f"{path.name.split('.')[0]}.lock"
        if not is_locked(lock):
            yield path
