"""Orphans leave no zombies, a process is known with all below it, and an exit code is put in words."""

import os
import signal
import subprocess
import sys
import time

from nimble_coder.processes.children import command_of, descendants, how_ended

ORPHANS = """
import os, subprocess, sys, time
from nimble_coder.processes.children import adopt_orphans, reap_orphans
adopt_orphans()
own = subprocess.Popen(["true"])
command = [sys.executable, "-c", "import subprocess; subprocess.Popen(['sleep', '0.3'])"]
leader = subprocess.Popen(command, start_new_session=True)
leader.wait()
deadline = time.monotonic() + 60
while not (reaped := reap_orphans()) and time.monotonic() < deadline:
    time.sleep(0.05)
print(reaped, own.wait())
"""


def test_orphans_are_buried_and_own_children_are_left_to_who_waits() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHANS], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["1", "0"]


def test_endings_in_words() -> None:
    assert (how_ended(-9), how_ended(3)) == ("was killed by SIGKILL", "ended with code 3")


def test_a_process_is_known_with_all_below_it() -> None:
    shell = subprocess.Popen(["/bin/sh", "-c", "sleep 60 & wait"])
    try:
        deadline = time.monotonic() + 60
        while not (below := descendants(shell.pid)) or command_of(below[0]) != ["sleep", "60"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert shell.pid in descendants(os.getpid())
        assert set(below) < set(descendants(os.getpid()))
    finally:
        for pid in (*descendants(shell.pid), shell.pid):
            os.kill(pid, signal.SIGKILL)
        shell.wait()
    assert (descendants(shell.pid), command_of(shell.pid)) == ([], [])
