"""The artefact cache: content-addressed directories that appear whole or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CacheError(RuntimeError):
    """The cache cannot be used; says why and what to do."""


class Cache:
    """`ROOT/artifacts/NAME-KEY/`, one directory an artefact, `KEY` being the first 16 digits of its content address."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def place(self, name: str, key: str) -> Path:
        """Where the artefact of that key is, or will be."""
        return self.artifacts / f"{name}-{key[:16]}"

    @contextmanager
    def lock(self, place: Path) -> Iterator[None]:
        """Keeps other builders of the same artefact waiting; the lock ends with its process, however that ends."""
        try:
            self.artifacts.mkdir(parents=True, exist_ok=True)
            lock = (self.artifacts / f".{place.name}.lock").open("w")
        except OSError as error:
            raise CacheError(f"the cache {self.root} cannot be written: {error.strerror}; choose another") from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def draft(self, place: Path) -> Iterator[Path]:
        """An empty directory that becomes `place` when the block ends without an exception; needs the lock.

        What a killed builder left behind is removed here.
        """
        draft, replaced = (place.with_name(f".{place.name}.{state}") for state in ("building", "replaced"))
        for leftover in (draft, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir()
        try:
            yield draft
            flush(draft)
            if place.exists():
                place.rename(replaced)
            draft.rename(place)
        finally:
            for leftover in (draft, replaced):
                shutil.rmtree(leftover, ignore_errors=True)


def flush(directory: Path) -> None:
    """Makes a directory's content durable, so that no rename can outlive the bytes it publishes."""
    for path in [directory, *directory.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
