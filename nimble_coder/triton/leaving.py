"""Notices that a client goes while another model works for it, and nothing comes that could be sent."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Thread

from nimble_coder.triton.sender import Sender

logger = logging.getLogger(__name__)

SECONDS = 0.05
"""Between two rounds of asking."""


class Leaving:
    """A thread that asks for all requests that are watched."""

    def __init__(self) -> None:
        self._watched: dict[Sender, Callable[[], None]] = {}
        self._lock = Lock()
        Thread(target=self._ask, name="leaving", daemon=True).start()

    @contextmanager
    def watch(self, sender: Sender, stop: Callable[[], None]) -> Iterator[None]:
        """Runs the block, which ends once `stop` has been called: as often as it takes, where the client goes."""
        with self._lock:
            self._watched[sender] = stop
        try:
            yield
        finally:
            with self._lock:
                del self._watched[sender]

    def _ask(self) -> None:
        while True:
            time.sleep(SECONDS)
            with self._lock:
                watched = list(self._watched.items())
            for sender, stop in watched:
                try:
                    if sender.is_cancelled():
                        stop()
                except Exception:  # the others are to be asked for nevertheless
                    logger.exception("a request whose client has gone cannot be stopped")
