"""The artefact cache: content-addressed directories that appear whole or not at all."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.filesize import decimal

from build_engine.exit_codes import ExitCode

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a file system says that is full, or that a user has used up his part of."""
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
"""What it says of a place that cannot be written."""


class CacheError(RuntimeError):
    """The cache cannot be used; says why and what to do."""

    exit_code = ExitCode.DISK_FULL


class CacheReadOnlyError(CacheError):
    """The cache cannot be written."""

    exit_code = ExitCode.READ_ONLY


class NoCacheError(CacheError):
    """The cache that is to be looked at is not there."""

    exit_code = ExitCode.ASKED


class Cache:
    """`ROOT/artifacts/NAME-KEY/`, one directory an artefact, `KEY` being the first 16 digits of its content address."""

    def __init__(self, root: Path) -> None:
        try:
            self.root = root.expanduser().absolute()
        except RuntimeError:  # of `~` where nobody has a home
            raise NoCacheError(f"{root} is in the home of nobody here: name the cache by its whole path") from None

    @classmethod
    def existing(cls, root: Path) -> "Cache":
        """One that is there already; raises `NoCacheError`."""
        cache = cls(root)
        if not os.path.isdir(cache.root):  # noqa: PTH112 - it makes no error of a name too long for any file
            raise NoCacheError(f"there is no cache {cache.root}: build-engine makes one, or name another with --cache")
        return cache

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def place(self, name: str, key: str) -> Path:
        """Where the artefact of that key is, or will be."""
        return self.artifacts / f"{name}-{key[:16]}"

    @property
    def hub(self) -> Path:
        """Downloaded checkpoints, in the layout of huggingface_hub, so that other tools share them."""
        return self.root / "huggingface" / "hub"

    def log(self, place: Path) -> Path:
        """The log of the commands that build an artefact; it stays when a build fails."""
        self.make(self.root / "logs")
        return self.root / "logs" / f"{place.name}.log"

    def make(self, directory: Path) -> None:
        """Makes a directory of the cache; raises `CacheError` where it cannot be made."""
        try:
            with self.writing():
                directory.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # as /proc answers, which has no place for it
            raise CacheReadOnlyError(
                f"the cache {self.root} cannot be made there; choose another place with --cache"
            ) from None

    def check_space(self, needed: int, purpose: str) -> None:
        """Raises `CacheError` where the file system has less than `needed` bytes free."""
        self.make(self.root)
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise CacheError(
                f"{purpose} needs {decimal(needed)}, {self.root} has {decimal(free)} free: make room "
                f"(nimble-coder cache prune), or choose another place with --cache"
            )

    @contextmanager
    def lock(self, place: Path, progress: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Keeps other builders of the same artefact waiting; the lock ends with its process, however that ends.

        Commands started with `close_fds=False` hold it too: those of a killed builder write into its draft until they
        end, and until then nobody else may.
        """
        self.make(self.artifacts)
        with self.writing():
            lock = (self.artifacts / f".{place.name}.lock").open("w")
        with lock:
            os.set_inheritable(lock.fileno(), True)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"waiting for another builder of {place.name}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns a full or read-only file system into a `CacheError`."""
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                raise CacheError(
                    f"the file system of the cache {self.root} is full: make room (nimble-coder cache prune), or "
                    f"choose another place with --cache"
                ) from None
            if error.errno in REFUSED:
                raise CacheReadOnlyError(
                    f"the cache {self.root} cannot be written: {error.strerror}; choose another place with --cache"
                ) from None
            raise

    @contextmanager
    def draft(self, place: Path) -> Iterator[Path]:
        """An empty directory that becomes `place` when the block ends without an exception; needs the lock.

        What a killed builder left behind is removed here.
        """
        draft, replaced = (place.with_name(f".{place.name}.{state}") for state in ("building", "replaced"))
        for leftover in (draft, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            with self.writing():
                draft.mkdir()
                yield draft
                flush(draft)
                if place.exists():
                    place.rename(replaced)
                draft.rename(place)
        finally:
            for leftover in (draft, replaced):
                shutil.rmtree(leftover, ignore_errors=True)


def copy_files(source: Path, target: Path, copy: Callable[[str, str], object] = shutil.copy2) -> None:
    """Copies a directory and all below; raises an `OSError` as it is, where `shutil.copytree` makes a text of it."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            copy_files(path, target / path.name, copy)
        else:
            copy(str(path), str(target / path.name))


def try_writing(directory: Path) -> None:
    """Makes a directory that a long work's result is for, and leaves nothing in it; raises `OSError`."""
    directory.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=directory).close()


def is_locked(lock: Path) -> bool:
    """True while somebody holds that lock file."""
    if not lock.is_file():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def flush(directory: Path) -> None:
    """Makes a directory's content durable, so that no rename can outlive the bytes it publishes."""
    for path in [directory, *directory.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
