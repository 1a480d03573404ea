"""Threads are there before they are wanted, or not at all."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nimble_coder.triton.thread_pool import StartedThreadPool, submit


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def alive(name: str) -> int:
    return sum(thread.name.startswith(name) for thread in threading.enumerate())


def test_what_is_wanted_later_needs_no_thread_that_the_kernel_could_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    with StartedThreadPool(3, "started") as pool:
        assert alive("started") == 3
        monkeypatch.setattr(threading.Thread, "start", refuse)
        together = threading.Barrier(3)
        assert sorted(each.result(10) for each in [pool.submit(together.wait) for _ in range(3)]) == [0, 1, 2]


def test_a_thread_that_is_refused_leaves_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: refuse(self) if alive("half") else start(self))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        StartedThreadPool(2, "half")
    assert alive("half") == 0


def test_work_whose_thread_is_refused_is_taken_by_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    done, busy = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        submit(pool, busy.wait)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        submit(pool, done.set)
        assert not done.is_set()
        busy.set()
        assert done.wait(10)


def test_work_that_nobody_will_do_is_not_passed_over_in_silence() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        submit(pool, int)
