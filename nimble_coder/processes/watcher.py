"""Ends everything that a process has started once that process is gone, however it ended.

The kernel's own way (PR_SET_PDEATHSIG) reaches direct children alone, and goes by the thread that started them:
Triton's may end long before its stubs. A stub cannot look by itself either: while its model loads, Triton's C++ code in
it may wait with Python's lock held. So a small program waits beside the owner, for the end of a pipe that the owner
alone has. It finds by a variable of their environment what was started, also by children of children.
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

OWNER = "_NIMBLE_OWNER"
"""The variable; not one of the settings."""
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
            [sys.executable, "-m", __name__, name],
            # It is not itself what whoever owns this process ends with it.
            env={variable: value for variable, value in os.environ.items() if variable != OWNER},
            stdin=reading,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reading)

    def dismiss() -> None:
        with suppress(BrokenPipeError, subprocess.TimeoutExpired):
            os.write(writing, b"\n")
            watcher.wait(10)

    atexit.register(dismiss)
    return {OWNER: name}


def end_all(name: str) -> bool:
    """Kills what carries the owner's name; false where nothing does."""
    mark, found = f"{OWNER}={name}".encode(), False
    for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - as below
        with suppress(OSError):  # it is gone, or somebody else's
            with open(f"/proc/{pid}/environ", "rb") as environment:  # noqa: PTH123 - pathlib takes a while to import
                is_owned = mark in environment.read().split(b"\0")
            if is_owned:
                os.kill(int(pid), signal.SIGKILL)
                found = True
    return found


def watch(name: str) -> None:
    """Waits for the owner's end."""
    is_orderly = bool(os.read(sys.stdin.fileno(), 1))
    is_first = True
    while end_all(name) or (is_first and not is_orderly):  # a child that was just being started has no environment yet
        is_first = False
        time.sleep(SECONDS_BETWEEN)
    if not is_orderly:
        from nimble_coder.processes.work_directory import sweep  # noqa: PLC0415 - it waits in less memory without

        sweep()


if __name__ == "__main__":
    watch(sys.argv[1])
