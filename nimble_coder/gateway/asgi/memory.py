"""Memory that large requests have taken goes back to the kernel: Python's collector seldom runs here, because messages
would set it off all the time, and the C library keeps what is free for the next ones."""

import asyncio
import ctypes
import gc
import resource
from contextlib import suppress
from pathlib import Path

SECONDS_BETWEEN = 10.0
GROWTH = 32 << 20
"""Bytes above the least so far from which on it is worth a pause of some milliseconds."""


async def give_back() -> None:
    """Looks every ten seconds at what this process has and gives back what it does not need, until it is cancelled."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    least = resident()
    while trim is not None:
        await asyncio.sleep(SECONDS_BETWEEN)
        with suppress(OSError):  # all files are open that may be: later
            if resident() > least + GROWTH:
                gc.collect()
                await asyncio.to_thread(trim, 0)
            least = min(least, resident())


def resident() -> int:
    """Bytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()
