"""Threads that are there from the beginning: one that the kernel refuses fails the model's load, no request later."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier


class StartedThreadPool(ThreadPoolExecutor):
    """As its parent, which starts a thread when it is first wanted."""

    def __init__(self, threads: int, name: str) -> None:
        """Raises `RuntimeError` where the kernel refuses one."""
        super().__init__(threads, name)
        others = Barrier(threads)  # no thread does what the next one is started for
        try:
            for _ in range(threads):
                self.submit(others.wait)
        except RuntimeError:
            others.abort()
            self.shutdown()
            raise
