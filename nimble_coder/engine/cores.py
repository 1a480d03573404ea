"""How many threads a step on the CPU gets: the cores that Triton and the gateway leave."""

import os
from dataclasses import dataclass
from pathlib import Path

from nimble_coder.control_group import MEMBERSHIP, ROOT, directories

MIB = 1 << 20
WEIGHTS_PER_THREAD = 32 * MIB
"""Fewer are read in less time than it takes to wake a thread: a step of the embedded model takes 0.2 ms."""


@dataclass(frozen=True)
class Cores:
    """What this process may run on."""

    affinity: int
    """Processors that the scheduler may choose: the machine's, a cpuset's, or those of `taskset`."""
    quota: float | None = None
    """Processors' worth of time that the control group may use (`docker run --cpus`, a pod's limit), where bounded."""

    @classmethod
    def here(cls, root: Path = ROOT, membership: Path = MEMBERSHIP) -> "Cores":
        """Those of this process."""
        quotas = [found for place in directories("cpu", root, membership) if (found := _quota(place)) is not None]
        return cls(len(os.sched_getaffinity(0)), min(quotas, default=None))

    @property
    def usable(self) -> int:
        """Whole cores, at least one: a thread that the quota stops in the middle of a step stops all of them."""
        return max(1, min(self.affinity, int(self.quota or self.affinity)))

    def threads(self, weights: int) -> int:
        """Threads for a model whose weights take so many bytes.

        One core of three or more is left to Triton and the gateway; of two, half of the arithmetic is not given up for
        what they use beside a model that is large enough to have threads at all (`docs/tuning.md`).
        """
        left = self.usable if self.usable <= 2 else self.usable - 1
        return min(left, max(1, weights // WEIGHTS_PER_THREAD))

    def __str__(self) -> str:
        quota = "no quota" if self.quota is None else f"a quota of {self.quota:g}"
        return f"{self.affinity} cores by affinity, {quota}"


def _quota(group: Path) -> float | None:
    """A control group's own bound, of v2 (`cpu.max`: quota and period) or v1; None where it has none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        if all((group / name).is_file() for name in names):
            quota, period = " ".join((group / name).read_text(encoding="utf-8") for name in names).split()
            return None if quota in ("max", "-1") else int(quota) / int(period)
    return None
