"""Directories of a running service in the temporary directory; those that a killed one has left are swept away.

Each holds a file that its service has locked. The kernel ends the lock with the process, however that ends, and in
every container that shares the directory.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path

OWNER = ".owner"
KINDS = ("serving", "triton", "metrics")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's name


class WorkDirectory:
    """A directory of one kind that nobody else has; it is there from `create` on."""

    def __init__(self, kind: str) -> None:
        assert kind in KINDS  # noqa: S101 - others would never be swept
        self.path = Path(tempfile.gettempdir()) / f"nimble-{kind}-{secrets.token_hex(6)}"
        self._lock: int | None = None

    def create(self) -> Path:
        """Makes it, unless that has been done, and marks it as in use."""
        if self._lock is None:
            self.path.mkdir(0o700)
            self._lock = os.open(self.path / f"{OWNER}.new", os.O_CREAT | os.O_WRONLY, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            (self.path / f"{OWNER}.new").rename(self.path / OWNER)  # so that nobody finds it unlocked
        return self.path

    def remove(self) -> None:
        """Removes it with all that is in it, and what of shared memory is called after it."""
        clear(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def clear(path: Path) -> None:
    """Removes a directory and the regions of shared memory that are called after it, which killed stubs leave."""
    shutil.rmtree(path, ignore_errors=True)
    for region in SHARED_MEMORY.glob(f"nimble-{path.name}-*"):
        region.unlink(missing_ok=True)


def sweep() -> None:
    """Removes what services that are no more have left."""
    for kind in KINDS:
        for owner in Path(tempfile.gettempdir()).glob(f"nimble-{kind}-*/{OWNER}"):
            try:
                lock = os.open(owner, os.O_WRONLY)
            except OSError:  # somebody else's, or gone meanwhile
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                clear(owner.parent)
            except BlockingIOError:
                continue  # in use
            finally:
                os.close(lock)
