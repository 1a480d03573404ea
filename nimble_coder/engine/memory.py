"""How many sequences' keys and values the memory holds: the engine keeps room for that many of full length."""

from pathlib import Path

from build_engine.checkpoint import ModelShape
from build_engine.precision import kept_bytes
from nimble_coder.control_group import MEMBERSHIP, ROOT, directories

MIB, GIB = 1 << 20, 1 << 30
OTHERS = 512 * MIB
"""Left to Triton, its text models and the gateway on a CPU, whose processes start beside the engine."""
SHARE = 0.9
"""Of the rest, unless another is asked for: the engine's own steps need some too."""
MEMINFO = Path("/proc/meminfo")
LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of cgroup v2 and v1: the bound, what is used, and which line of `memory.stat` says what of it can be dropped."""


def free_memory(root: Path = ROOT, membership: Path = MEMBERSHIP, meminfo: Path = MEMINFO) -> int:
    """Bytes that this process can still get: of the machine's memory, and of its control groups' limits."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    return min(
        [available, *(left for place in directories("memory", root, membership) if (left := _left(place)) is not None)]
    )


def slot_bytes(shape: ModelShape, capacity: int, dtype: str) -> int:
    """Bytes of one sequence's keys and values with `capacity` entries."""
    return shape.num_hidden_layers * shape.num_key_value_heads * capacity * kept_bytes(dtype, shape.head_dim)


def slots_within(free: int, weights: int, slot: int, most: int, share: float = SHARE) -> int:
    """How many slots fit into a share of what is free beside the weights, at most `most`; 0 where not one does."""
    return max(0, min(most, int((free - weights) * share) // slot))


def _left(group: Path) -> int | None:
    """What a control group may still take, files that it only keeps cached counted as free; None without a limit."""
    for bound, used, droppable in LIMITS:
        if all((group / name).is_file() for name in (bound, used, "memory.stat")):
            limit = (group / bound).read_text(encoding="utf-8").strip()
            if limit == "max":
                return None
            stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
            cached = int(stat.get(droppable, 0))
            return max(0, int(limit) - int((group / used).read_text(encoding="utf-8")) + cached)
    return None
