"""Requests sent to a service, never more than were asked for: so many at a time, or so many a second."""

import itertools
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence

from nimble_coder.bench.load.target import Sample

Request = Callable[[], Sample]
"""Sends one request and waits for its answer."""


def closed_loop(requests: Sequence[Request], concurrency: int, done: Callable[[], None] = lambda: None) -> list[Sample]:
    """So many at a time: whoever has its answer sends the next request. `done` is called after each."""
    waiting = iter(requests)
    return _run(concurrency, lambda: next(waiting, None), done)


def open_loop(
    requests: Sequence[Request], rate: float, seed: int = 0, done: Callable[[], None] = lambda: None
) -> list[Sample]:
    """So many a second on average, at random intervals (a Poisson process), however many are still running."""
    rng = random.Random(seed)
    moments = itertools.accumulate(rng.expovariate(rate) for _ in requests)
    started = time.perf_counter()
    waiting = iter(zip(moments, requests, strict=True))

    def next_one() -> Request | None:
        moment, request = next(waiting, (0.0, None))
        if request is None:
            return None
        time.sleep(max(0.0, started + moment - time.perf_counter()))
        return request

    return _run(len(requests), next_one, done)


def _run(threads: int, next_one: Callable[[], Request | None], done: Callable[[], None]) -> list[Sample]:
    """Threads that fetch requests one after the other, each request once, until there is none; raises what they did.

    Ctrl-C lets the running requests end unread: the threads do not keep the process.
    """
    fetching, samples = threading.Lock(), list[Sample]()
    ended = queue.SimpleQueue[BaseException | None]()
    stopped = threading.Event()

    def work() -> None:
        try:
            while True:
                with fetching:
                    request = None if stopped.is_set() else next_one()
                if request is None:
                    break
                samples.append(request())
                done()
            ended.put(None)
        except BaseException as error:
            ended.put(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    try:
        for worker in workers:
            worker.start()
        errors = [error for error in (ended.get() for _ in workers) if error is not None]
    finally:
        stopped.set()
    if errors:
        raise errors[0]
    return sorted(samples, key=lambda sample: sample.sent)
