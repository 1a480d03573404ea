"""Threads are there before they are wanted, or not at all."""

import threading

import pytest

from nimble_coder.triton.thread_pool import StartedThreadPool


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
