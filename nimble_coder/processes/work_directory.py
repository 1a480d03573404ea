"""Directories of a running service in the temporary directory; those that a killed one has left are swept away.

Each holds a file that its service has locked. The kernel ends the lock with the process, however that ends, and in
every container that shares the directory.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from nimble_coder.processes.shared_memory import PLACE

OWNER = ".owner"
NEW = f"{OWNER}.new"
TOKEN_BYTES = 6
KINDS = ("serving", "triton", "metrics", "verify")


class WorkDirectory:
    """A directory of one kind that nobody else has; it is there from `create` on."""

    def __init__(self, kind: str) -> None:
        assert kind in KINDS  # noqa: S101 - others would never be swept
        self.path = Path(tempfile.gettempdir()) / f"nimble-{kind}-{secrets.token_hex(TOKEN_BYTES)}"
        self._lock: int | None = None

    def create(self) -> Path:
        """Makes it, unless that has been done, and marks it as in use."""
        while self._lock is None:
            self.path.mkdir(0o700, exist_ok=True)  # a sweep that has taken the mark away removes it a moment later
            with suppress(FileNotFoundError):  # swept away meanwhile, since it had no mark yet
                self._lock = locked(self.path)
        return self.path

    def remove(self) -> None:
        """Removes it with all that is in it, and what of shared memory is called after it."""
        clear(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def locked(directory: Path) -> int:
    """Marks a directory as in use, for as long as the number that is returned is open; raises `FileNotFoundError`."""
    lock = os.open(directory / NEW, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (directory / NEW).rename(directory / OWNER)  # so that nobody finds the mark unlocked
    except BaseException:
        os.close(lock)
        raise
    return lock


def clear(path: Path) -> None:
    """Removes a directory and the regions of shared memory that are called after it, which killed stubs leave."""
    shutil.rmtree(path, ignore_errors=True)
    for region in PLACE.glob(f"nimble-{path.name}-*"):
        region.unlink(missing_ok=True)


def sweep() -> None:
    """Removes what services that are no more have left."""
    for kind in KINDS:
        for directory in Path(tempfile.gettempdir()).glob(f"nimble-{kind}-{'[0-9a-f]' * 2 * TOKEN_BYTES}"):
            with suppress(OSError):  # somebody else's, in use, or gone meanwhile
                sweep_one(directory)


def sweep_one(directory: Path) -> None:
    """Removes a directory, unless a process has it; raises `OSError` where that cannot be."""
    try:
        lock = os.open(directory / OWNER, os.O_WRONLY)
    except FileNotFoundError:
        # Its process was killed before it could mark it, or is about to: then that one makes it again.
        (directory / NEW).unlink(missing_ok=True)
        directory.rmdir()
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        clear(directory)
    finally:
        os.close(lock)
