"""Threads that are there from the beginning: one that the kernel refuses fails the model's load, no request later."""

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from threading import Barrier

REFUSED = "can't start new thread"
"""What Python says where the kernel refuses one."""


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


def submit(pool: Executor, work: Callable[[], object]) -> None:
    """Has a thread do the work; where the kernel refuses a pool that has threads one more, one of those takes it."""
    try:
        pool.submit(work)
    except RuntimeError as error:  # it waits in the pool's queue by then
        if str(error) != REFUSED:
            raise
