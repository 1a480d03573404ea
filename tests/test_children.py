"""Child processes end with this one, and leave no zombies."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nimble_coder.processes.children import how_ended, tethered

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
TETHER = """
import signal, subprocess, sys, time
from nimble_coder.processes.children import tethered
print(subprocess.Popen(tethered(["sleep", "60"], signal.SIGTERM)).pid, flush=True)
time.sleep(60)
"""


def test_orphans_are_buried_and_own_children_are_left_to_who_waits() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHANS], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["1", "0"]


def test_a_tethered_command_ends_with_the_process_that_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", TETHER], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.kill()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    pytest.fail("it still runs")


def test_the_command_itself_is_what_runs() -> None:
    done = subprocess.run(tethered(["sh", "-c", "exit 3"], signal.SIGKILL), check=False)
    assert done.returncode == 3


def test_endings_in_words() -> None:
    assert (how_ended(-9), how_ended(3)) == ("was killed by SIGKILL", "ended with code 3")
