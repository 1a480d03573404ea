"""What a process has started ends with it, whatever either was doing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.supervisor.conftest import is_alive

OWNER = '''
import os, subprocess, sys, time
from nimble_coder.processes.watcher import owned
child = """
import os, subprocess, time
os.setsid()
print(os.getpid(), subprocess.Popen(["sleep", "600"]).pid, flush=True)
time.sleep(600)
"""
subprocess.Popen([sys.executable, "-c", child], env={**os.environ, **owned()})
'''
"""Starts a child, which tells its number and that of its own child."""
NESTED = """
import os, subprocess, sys
from nimble_coder.processes.watcher import owned
subprocess.run([sys.executable, "-c", sys.argv[1]], env={**os.environ, **owned()})
"""
"""Runs another owner."""


@contextmanager
def started(*code: str) -> "Iterator[tuple[subprocess.Popen[str], list[int]]]":
    """The process with that code, and the two that it starts."""
    with subprocess.Popen([sys.executable, "-c", *code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, [int(pid) for pid in process.stdout.readline().split()]


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while left := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.parametrize("code", [(OWNER + "time.sleep(600)",), (NESTED, OWNER + "time.sleep(600)")])
def test_a_killed_owner_takes_children_of_children_with_it_that_do_nothing_themselves(code: tuple[str, ...]) -> None:
    with started(*code) as (owner, pids):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        owner.kill()
    assert_gone(pids)


def test_when_an_owner_ends_by_itself_nothing_of_it_is_left_any_more() -> None:
    with started(OWNER) as (owner, pids):
        assert owner.wait(60) == 0
        assert [pid for pid in pids if is_alive(pid)] == []


def test_signals_to_all_processes_leave_the_watcher_to_its_work() -> None:
    with started(OWNER + "time.sleep(600)") as (owner, pids):
        children = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
        (watcher,) = [int(pid) for pid in children if int(pid) not in pids]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(watcher, number)
        assert is_alive(watcher)
        owner.kill()
    assert_gone([*pids, watcher])
