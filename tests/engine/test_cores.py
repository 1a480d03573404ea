"""How many threads a step gets follows from affinity, control groups and the size of the model."""

import os
from pathlib import Path

import pytest

from nimble_coder.engine.cores import Cores

HALF_BILLION = 988 << 20
EMBEDDED = 26 << 20


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (3, 2), (4, 3), (16, 15)])
def test_a_core_of_three_or_more_is_left_to_triton_and_the_gateway(cores: int, threads: int) -> None:
    assert Cores(cores).threads(HALF_BILLION) == threads


def test_a_model_that_is_read_at_once_has_one_thread() -> None:
    assert Cores(16).threads(EMBEDDED) == 1
    assert Cores(16).threads(4 * EMBEDDED) == 3


@pytest.mark.parametrize(("quota", "usable"), [(None, 8), (0.5, 1), (1.0, 1), (2.5, 2), (64.0, 8)])
def test_whole_cores_of_the_quota_count(quota: float | None, usable: int) -> None:
    assert Cores(8, quota).usable == usable


def test_quotas_of_both_versions_and_of_the_groups_around_are_read(tmp_path: Path) -> None:
    membership, pod = tmp_path / "membership", tmp_path / "kubepods" / "pod"
    pod.mkdir(parents=True)
    membership.write_text("0::/kubepods/pod\n")
    (pod / "cpu.max").write_text("max 100000\n")
    assert Cores.here(tmp_path, membership).quota is None
    (pod.parent / "cpu.max").write_text("350000 100000\n")
    assert Cores.here(tmp_path, membership).quota == 3.5
    old = tmp_path / "cpu,cpuacct" / "docker"
    old.mkdir(parents=True)
    (old / "cpu.cfs_quota_us").write_text("150000\n")
    (old / "cpu.cfs_period_us").write_text("100000\n")
    membership.write_text("7:memory:/docker\n3:cpu,cpuacct:/docker\n")
    assert Cores.here(tmp_path, membership).quota == 1.5


def test_inside_a_container_the_group_is_the_root(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    (tmp_path / "membership").write_text("0::/docker/of-the-host\n")
    assert str(Cores.here(tmp_path, tmp_path / "membership")).endswith("by affinity, a quota of 2")


def test_the_affinity_of_this_process_counts(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert Cores.here(tmp_path, tmp_path / "none") == Cores(1)
    finally:
        os.sched_setaffinity(0, before)
