"""What the workers of one service count together: generations in flight, and what each client has used up."""

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
"""The most clients whose allowance is remembered; beyond, the one closest to having it all back is forgotten."""
PROBES = 8
COUNT = struct.Struct("<q")
CLIENT = struct.Struct("<8sd")
"""A client's name as a hash, and when it has its whole allowance back, as `time.monotonic` tells in every process."""
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

    def add(self, count: int, limit: int | None = None) -> bool:
        """Adds to `active` (or takes away); False, and nothing is added, where that would exceed the limit."""
        with self._changing():
            total = self.active + count
            if limit is not None and total > limit:
                return False
            COUNT.pack_into(self._memory, 0, total)
        return True

    def take(self, client: str, per_minute: int) -> float:
        """Takes one request from a client's allowance, which refills steadily and may be used all at once.

        Returns 0, or the seconds until the client may ask again; then nothing was taken. The generic cell rate
        algorithm (ATM Forum, TM 4.0): one number a client.
        """
        name, now, interval = (
            hashlib.blake2b(client.encode(), digest_size=8).digest(),
            time.monotonic(),
            60 / per_minute,
        )
        with self._changing():
            place, whole = self._find(name, now)
            until = max(whole, now) + interval
            wait = until - now - 60
            if wait > 1e-9:
                return wait
            CLIENT.pack_into(self._memory, place, name, until)
        return 0.0

    def _find(self, name: bytes, now: float) -> tuple[int, float]:
        """Where the client's entry is or may be written, and when it has its whole allowance back."""
        first = int.from_bytes(name, "little")
        places = [COUNT.size + (first + i) % CLIENTS * CLIENT.size for i in range(PROBES)]
        entries = [(place, *CLIENT.unpack_from(self._memory, place)) for place in places]
        for place, known, until in entries:
            if known == name:
                return place, until
        return min(entries, key=lambda entry: float(entry[2]))[0], now

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
