"""Whether the kernel has killed a process of this container for memory."""

from pathlib import Path

from nimble_coder.control_group import MEMBERSHIP, ROOT, directories, event_count

COUNTERS = ("memory.events", "memory.oom_control")
"""Of cgroup v2 and v1; both have a line `oom_kill N`."""


def oom_kills(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """How many processes of this control group the kernel has killed; 0 where it does not say."""
    for place in directories("memory", root, membership):
        for name in COUNTERS:
            if (place / name).is_file():
                return event_count(place / name, "oom_kill")
    return 0
