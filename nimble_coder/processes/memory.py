"""Whether the kernel has killed a process of this container for memory, and which it is to kill first."""

from contextlib import suppress
from pathlib import Path

from nimble_coder.control_group import MEMBERSHIP, ROOT, directories, event_count

COUNTERS = ("memory.events", "memory.oom_control")
"""Of cgroup v2 and v1; both have a line `oom_kill N`."""


SOONER = 500
"""Thousandths of all memory that a process is taken for larger by, where the kernel looks for one to kill (proc(5))."""


def kill_sooner(pid: int, processes: Path = Path("/proc")) -> None:
    """Has the kernel kill this process, or one of those that it starts, rather than its parent, which tells of it."""
    with suppress(OSError):  # it has ended
        own = int((processes / "self" / "oom_score_adj").read_text(encoding="ascii"))
        (processes / str(pid) / "oom_score_adj").write_text(str(min(own + SOONER, 1000)), encoding="ascii")


def oom_kills(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """How many processes of this control group the kernel has killed; 0 where it does not say."""
    for place in directories("memory", root, membership):
        for name in COUNTERS:
            if (place / name).is_file():
                return event_count(place / name, "oom_kill")
    return 0
