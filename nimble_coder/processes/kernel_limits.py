"""Limits that Triton does not name when it dies of them: of the address space, and of processes and threads."""

import resource
from collections.abc import Iterator
from pathlib import Path

from nimble_coder.control_group import MEMBERSHIP, ROOT, directories

GIB = 1 << 30
ADDRESS_SPACE = 16 * GIB
"""Triton reserves 12 GiB, most of it for the stacks of its threads; with 8 it ended by SIGSEGV while it loaded."""
TASKS = 512
"""Processes and threads of a service: 213 were counted on two cores, and there are more on more cores."""


def narrow_limits(root: Path = ROOT, membership: Path = MEMBERSHIP) -> Iterator[str]:
    """Each limit that a start may fail of, and what to do."""
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY and space < ADDRESS_SPACE:
        yield (
            f"the address space is limited to {space / GIB:.1f} GiB (ulimit -v), Triton may need "
            f"{ADDRESS_SPACE // GIB}: lift that limit, and bound memory by a control group"
        )
    most = min((found for place in directories("pids", root, membership) if (found := _most(place))), default=TASKS)
    if most < TASKS:
        yield (
            f"there may be {most} processes and threads at once (the control group's pids.max), the service may need "
            f"{TASKS}: raise it (docker run --pids-limit)"
        )


def _most(group: Path) -> int | None:
    file = group / "pids.max"
    text = file.read_text(encoding="ascii").strip() if file.is_file() else "max"
    return None if text == "max" else int(text)
