"""Limits that Triton does not name when it dies of them: of the address space, and of processes and threads."""

import errno
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_tb

from nimble_coder.control_group import MEMBERSHIP, ROOT, directories, event_count
from nimble_coder.processes.errors import TaskLimitError
from nimble_coder.processes.log import Log, ProcessLog

GIB = 1 << 30
ADDRESS_SPACE = 16 * GIB
"""Triton reserves 12 GiB, most of it for the stacks of its threads; with 8 it ended by SIGSEGV while it loaded."""
TASKS = 512
"""Processes and threads of a service: 213 were counted on two cores, and there are more on more cores."""
RAISE = "raise it (docker run --pids-limit, the node's podPidsLimit, ulimit -u)"
REFUSED = re.compile(r"can't start new thread|pthread_create failed|what\(\):\s+Resource temporarily unavailable")
"""What Python, gRPC and the C++ library write when the kernel refuses a thread."""
PROCESS = Path("/proc/self")
NO_NAMESPACE = ["0", "0", "4294967295"]
"""The map of user ids where there is no other user namespace around."""
ADMIN, RESOURCE = 1 << 21, 1 << 24
"""CAP_SYS_ADMIN and CAP_SYS_RESOURCE: include/uapi/linux/capability.h."""


def narrow_limits(root: Path = ROOT, membership: Path = MEMBERSHIP) -> Iterator[str]:
    """Each limit that a start may fail of, and what to do."""
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY and space < ADDRESS_SPACE:
        yield (
            f"the address space is limited to {space / GIB:.1f} GiB (ulimit -v), Triton may need "
            f"{ADDRESS_SPACE // GIB}: lift that limit, and bound memory by a control group"
        )
    if narrow := narrow_tasks(root, membership):
        yield f"{narrow}, the service may need {TASKS}: {RAISE}"


def narrow_tasks(root: Path = ROOT, membership: Path = MEMBERSHIP) -> str:
    """How many processes and threads there may be, and who says so; empty where they are enough."""
    limits = [(most, "the control group's pids.max") for most in group_limits(root, membership)]
    if (own := resource.getrlimit(resource.RLIMIT_NPROC)[0]) != resource.RLIM_INFINITY and not is_exempt():
        limits.append((own, "ulimit -u, all of this user's count"))
    most, origin = min(limits, default=(TASKS, ""))
    return f"there may be {most} processes and threads at once ({origin})" if most < TASKS else ""


def is_exempt(process: Path = PROCESS) -> bool:
    """Whether `ulimit -u` means nothing to a process: root's, or one that may pass limits (kernel/fork.c). Inside a
    user namespace there is none."""
    map_of_ids = process / "uid_map"
    if not map_of_ids.is_file() or map_of_ids.read_text(encoding="ascii").split() != NO_NAMESPACE:
        return False
    lines = (process / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    return status["Uid"][0] == "0" or bool(int(status["CapEff"][0], 16) & (ADMIN | RESOURCE))


def group_limits(root: Path, membership: Path) -> Iterator[int]:
    """Of this process's group and of those around it."""
    for place in directories("pids", root, membership):
        file = place / "pids.max"
        text = file.read_text(encoding="ascii").strip() if file.is_file() else "max"
        if text != "max":
            yield int(text)


def refused_tasks(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """How often the kernel has refused this control group a process or a thread; 0 where it does not say."""
    files = (place / "pids.events" for place in directories("pids", root, membership))
    return next((event_count(file, "max") for file in files if file.is_file()), 0)


class Refusals:
    """The processes and threads that the kernel refuses from now on: Triton (2.51) and gRPC abort then, or wait for
    what was not started."""

    def __init__(self, log: Log, root: Path = ROOT, membership: Path = MEMBERSHIP) -> None:
        self._log, self._group = log, (root, membership)
        self._before = self._next = self._so_far()

    def move_on(self) -> None:
        """What had come when this was called last has done no harm, and counts no more."""
        self._before, self._next = self._next, self._so_far()

    def check(self, error: Exception | None = None) -> None:
        """Raises `TaskLimitError` where there is one, or where `error` is one; `error` is then its cause."""
        if isinstance(error, TaskLimitError) or not (is_refusal(error) or self._have_come):
            return
        what = "the kernel has refused a process or a thread" + (f" ({error})" if error else "")
        raise TaskLimitError(f"{what}: {narrow_tasks(*self._group) or 'there is a limit on them'}: {RAISE}") from error

    def _so_far(self) -> tuple[int, float]:
        """What the kernel has refused, and when that was."""
        return refused_tasks(*self._group), time.monotonic()

    @property
    def _have_come(self) -> bool:
        log, (refused, since) = self._log, self._before
        if isinstance(log, ProcessLog) and any(log.mentions(name, REFUSED, since) for name in [*log.recent]):
            return True
        return refused_tasks(*self._group) > refused


def is_refusal(error: Exception | None) -> bool:
    """Whether it is how Python says that the kernel refuses a process or a thread; what `subprocess` hands on of fork,
    a pipe or a socket says as well."""
    if isinstance(error, BlockingIOError):
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        return error.errno == errno.EAGAIN and bool(frames) and frames[-1].f_code.co_name == "_execute_child"
    return bool(REFUSED.search(str(error)))
