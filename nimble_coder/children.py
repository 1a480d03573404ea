"""Child processes that do not outlive this one, and those of theirs that do."""

import ctypes
import os
import shutil
import signal
import threading
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
"""include/uapi/linux/prctl.h"""


def tethered(command: list[str], number: signal.Signals) -> list[str]:
    """The command, told by the kernel with that signal when the thread that starts it ends, however that ends.

    `setpriv` of util-linux becomes the command; where there is none the command stays as it is.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", number.name.removeprefix("SIG"), *command] if setpriv else command


def adopt_orphans() -> None:
    """Makes this process the parent of all descendants whose parent ends, as it is anyway where it is PID 1."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans() -> int:
    """Buries ended orphans and returns how many. What this process has started itself is left to who waits for it.

    Such a process either is in this one's session or leads its own; an adopted orphan does neither.
    """
    own, reaped = os.getsid(0), 0
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split():
        try:
            stat = Path(f"/proc/{child}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        state, session = fields[0], int(fields[3])
        if state == "Z" and session not in (own, int(child)):
            os.waitpid(int(child), os.WNOHANG)
            reaped += 1
    return reaped


def end_with_parent() -> None:
    """Ends this process soon after its parent, from a thread of its own.

    Unlike the kernel's signal this does not mind which thread of the parent started it, and that that thread ends.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def how_ended(code: int) -> str:
    """An exit code as `subprocess` gives it, in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
