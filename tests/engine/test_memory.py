"""How many sequences of full length there is room for follows from the memory that is left."""

from pathlib import Path

import pytest

from build_engine.catalog import find_model
from build_engine.precision import INT8
from nimble_coder.engine.memory import GIB, MIB, free_memory, slot_bytes, slots_within


def test_a_slot_takes_what_its_shape_says() -> None:
    """Keys and values of 24 layers with 2 heads of 64 dimensions in 2 bytes: 12 KiB a token."""
    shape = find_model("qwen2.5-coder-0.5b-instruct").shape
    assert slot_bytes(shape, 32_768, "bfloat16") == 384 * MIB
    assert slot_bytes(shape, 32_768, INT8) == (192 + 24) * MIB  # two scales of 4 bytes and 8 second bytes beside 128


@pytest.mark.parametrize(("free", "slots"), [(1, 0), (2, 1), (3, 3), (8, 8), (64, 8)])
def test_the_slots_are_those_that_fit_beside_the_weights(free: int, slots: int) -> None:
    assert slots_within(free * GIB, GIB, 512 * MIB, 8) == slots
    assert slots_within(free * GIB, GIB, 512 * MIB, 8, 0.5) == min(max(free - 1, 0), 8)


def write(group: Path, files: dict[str, object]) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (group / name).write_text(f"{content}\n")


def test_the_narrowest_of_machine_and_control_groups_counts(tmp_path: Path) -> None:
    meminfo, membership = tmp_path / "meminfo", tmp_path / "membership"
    meminfo.write_text("MemTotal: 99 kB\nMemAvailable:    8388608 kB\nHugePages_Total:       0\n")
    membership.write_text("0::/kubepods/pod\n")
    found = [free_memory(tmp_path, membership, meminfo)]
    write(tmp_path / "kubepods", {"memory.max": "max", "memory.current": 5 * GIB, "memory.stat": "anon 1"})
    found.append(free_memory(tmp_path, membership, meminfo))
    stat = f"anon 7\ninactive_file {GIB}"
    write(tmp_path / "kubepods" / "pod", {"memory.max": 4 * GIB, "memory.current": 2 * GIB, "memory.stat": stat})
    found.append(free_memory(tmp_path, membership, meminfo))
    membership.write_text("7:memory:/docker\n")
    old = {"memory.limit_in_bytes": 2 * GIB, "memory.usage_in_bytes": 3 * GIB, "memory.stat": "total_inactive_file 0"}
    write(tmp_path / "memory" / "docker", old)
    found.append(free_memory(tmp_path, membership, meminfo))
    assert found == [8 * GIB, 8 * GIB, 3 * GIB, 0]
