"""What the workers of one service count together: generations in flight, of all clients and of each, and what each has
used up."""

import fcntl
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLIENTS = 16_384
"""The most clients who are remembered; beyond, one without generations in flight is forgotten, the closest to having
its whole allowance back."""
PROBES = 8
COUNT = struct.Struct("<q")
CLIENT = struct.Struct("<8sqd")
"""A client's name as a hash, its generations in flight, and when it has its whole allowance back, as `time.monotonic`
tells in every process."""
SIZE = COUNT.size + CLIENTS * CLIENT.size


class Ledger:
    """A few numbers in memory: shared through a file in `directory`, this process's own where that is None."""

    def __init__(self, directory: Path | None = None) -> None:
        self._file = -1
        """The descriptor that the lock belongs to; it is open as long as the process is."""
        if directory is not None:
            self._file = os.open(directory / "ledger", os.O_RDWR | os.O_CREAT, 0o600)
            # Zeros where the first worker makes it, no change for the others. And its room on the disk, once for all:
            # where a disk is full, to write into what is mapped of it ends the process (SIGBUS).
            os.posix_fallocate(self._file, 0, SIZE)
        self._memory = mmap.mmap(self._file, SIZE)

    @property
    def active(self) -> int:
        """Generations in flight in all workers."""
        count: int = COUNT.unpack_from(self._memory)[0]
        return count

    def add(self, count: int, limit: int | None = None, client: str = "", kept: int = 0) -> bool:
        """Adds to `active` and to the client's (or takes away); False, and nothing is added, where that would exceed
        the limit, of which the last `kept` are for clients that have none."""
        with self._changing():
            place, name, own, whole = self._find(client)
            total = self.active + count
            if limit is not None and total > limit - (kept if own else 0):
                return False
            COUNT.pack_into(self._memory, 0, total)
            CLIENT.pack_into(self._memory, place, name, max(own + count, 0), whole)
        return True

    def take(self, client: str, per_minute: int) -> float:
        """Takes one request from a client's allowance, which refills steadily and may be used all at once.

        Returns 0, or the seconds until the client may ask again; then nothing was taken. The generic cell rate
        algorithm (ATM Forum, TM 4.0): one number a client.
        """
        now, interval = time.monotonic(), 60 / per_minute
        with self._changing():
            place, name, own, whole = self._find(client)
            until = max(whole, now) + interval
            wait = until - now - 60
            if wait > 1e-9:
                return wait
            CLIENT.pack_into(self._memory, place, name, own, until)
        return 0.0

    def _find(self, client: str) -> tuple[int, bytes, int, float]:
        """Where the client's entry is or may be written, and what it is."""
        name = hashlib.blake2b(client.encode(), digest_size=8).digest()
        first = int.from_bytes(name, "little")
        places = [COUNT.size + (first + i) % CLIENTS * CLIENT.size for i in range(PROBES)]
        entries = [(place, *CLIENT.unpack_from(self._memory, place)) for place in places]
        for entry in entries:
            if entry[1] == name:
                return entry
        return min(entries, key=lambda entry: entry[2:])[0], name, 0, 0.0

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keeps the other workers out for a moment; a lock ends with its process, however that ends."""
        if self._file < 0:
            yield
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
