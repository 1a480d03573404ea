"""Ctrl-C and SIGTERM as an event, so that a server is always left through its `with` block."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """Yields an event that the first SIGINT or SIGTERM sets. A signal that comes while nobody waits for the event
    raises `KeyboardInterrupt` only the second time, so that an impatient person is heard too."""
    stopped = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
