"""Where the kernel says what a control group may use, and what happened in it."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def directories(controller: str, root: Path = ROOT, membership: Path = MEMBERSHIP) -> Iterator[Path]:
    """The directories of this process's group for a controller, then those of the groups around it (v2 or v1).

    Inside a container the group is mounted as the root, whatever its path is outside.
    """
    if not membership.is_file():  # no Linux
        return
    for line in membership.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            top = root / controllers
            inside = Path(path.lstrip("/"))
            yield from (top / place for place in (inside, *inside.parents) if (top / place).is_dir())


def event_count(file: Path, event: str) -> int:
    """How often a group's file of events says that it has happened: a line `EVENT N`; 0 where it does not say."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{event} ")), 0)
