"""Ends everything that a process has started once that process is gone, however it ended.

The kernel's own way (PR_SET_PDEATHSIG) reaches direct children alone, and goes by the thread that started them:
Triton's may end long before its stubs. A stub cannot look by itself either: while its model loads, Triton's C++ code in
it may wait with Python's lock held. So a watcher waits beside the owner, for the end of a pipe that the owner alone
has. It finds by a variable of their environment what was started, also by children of children.
"""

import atexit
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from nimble_coder.environment import without_secrets
from nimble_coder.processes.work_directory import sweep

OWNER = "_NIMBLE_OWNER"
"""The variable; not one of the settings."""
WAIT = 'read -r dismissed || exec "$@"'
"""Waits in a shell, which takes a tenth of the memory that Python would."""
SECONDS_BETWEEN = 0.1


@cache
def owned() -> dict[str, str]:
    """What the environment of a child has to hold to end with this process; the first call starts the watcher."""
    name = secrets.token_hex(8)
    reading, writing = os.pipe()  # this process alone has the writing end, until it ends
    # The watcher begins with them blocked: they are meant for the owner, which may go on for a while.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", WAIT, "watcher", sys.executable, "-m", __name__, name],
            # It is not itself what whoever owns this process ends with it.
            env={name: value for name, value in without_secrets(os.environ).items() if name != OWNER},
            stdin=reading,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reading)

    def dismiss() -> None:
        end_all(name)
        with suppress(BrokenPipeError):
            os.write(writing, b"\n")
        watcher.wait()

    atexit.register(dismiss)
    return {OWNER: name}


def end_all(name: str) -> bool:
    """Kills what carries the owner's name; false where nothing does."""
    mark, found = f"{OWNER}={name}".encode(), False
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it is gone, or somebody else's
            if mark in (place / "environ").read_bytes().split(b"\0"):
                os.kill(int(place.name), signal.SIGKILL)
                found = True
    return found


def clear_up(name: str) -> None:
    """What is done once the owner is gone and could not do it."""
    end_all(name)
    time.sleep(SECONDS_BETWEEN)  # a child that was just being started had no environment yet
    while end_all(name):
        time.sleep(SECONDS_BETWEEN)
    sweep()


if __name__ == "__main__":
    clear_up(sys.argv[1])
