"""Child processes as the kernel tells of them, and those of theirs that they leave behind."""

import ctypes
import os
import signal
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
"""include/uapi/linux/prctl.h"""


def adopt_orphans() -> None:
    """Makes this process the parent of all descendants whose parent ends, as it is anyway where it is PID 1."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass(frozen=True)
class State:
    """What /proc tells of a process."""

    is_zombie: bool
    parent: int
    session: int

    @classmethod
    def of(cls, pid: int) -> "State | None":
        """None for one that is gone."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
        return cls(fields[0] == "Z", int(fields[1]), int(fields[3]))


def session_commands(session: int) -> dict[int, list[str]]:
    """The running processes of a session with their command lines, which one that is being started has not yet."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        state = State.of(int(place.name))
        if state and state.session == session and not state.is_zombie and (command := command_of(int(place.name))):
            found[int(place.name)] = command
    return found


def command_of(pid: int) -> list[str]:
    """A process's command line; empty where it has ended, or is being started."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """Every process below one."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        if state := State.of(int(place.name)):
            children.setdefault(state.parent, []).append(int(place.name))
    found, waiting = list[int](), [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def reap_orphans() -> int:
    """Buries ended orphans and returns how many. What this process has started itself is left to who waits for it.

    Such a process either is in this one's session or leads its own; an adopted orphan does neither.
    """
    own, reaped = os.getsid(0), 0
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    for child in map(int, children):
        state = State.of(child)
        if state and state.is_zombie and state.session not in (own, child):
            os.waitpid(child, os.WNOHANG)
            reaped += 1
    return reaped


def how_ended(code: int) -> str:
    """An exit code as `subprocess` gives it, in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
