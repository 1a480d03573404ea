"""What the kernel says about processes it killed for memory."""

import subprocess
from pathlib import Path

from nimble_coder.processes.memory import SOONER, kill_sooner, oom_kills


def test_control_groups_of_both_versions_are_read(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    (tmp_path / "pod").mkdir()
    (tmp_path / "memory" / "pod").mkdir(parents=True)
    (tmp_path / "pod" / "memory.events").write_text("low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
    (tmp_path / "memory" / "pod" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    membership.write_text("0::/pod\n")
    assert oom_kills(tmp_path, membership) == 3
    membership.write_text("5:devices:/\n4:memory:/pod\n")
    assert oom_kills(tmp_path, membership) == 2


def test_inside_a_container_the_group_is_the_root(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("oom_kill 1\n")
    (tmp_path / "membership").write_text("0::/kubepods/of/the/host\n")
    assert oom_kills(tmp_path, tmp_path / "membership") == 1


def test_where_nothing_is_told_nothing_was_killed(tmp_path: Path) -> None:
    (tmp_path / "membership").write_text("0::/\n")
    assert oom_kills(tmp_path, tmp_path / "membership") == 0


def test_a_process_is_killed_before_the_one_that_knows_of_it(tmp_path: Path) -> None:
    for own, expected in ((0, SOONER), (-997, SOONER - 997), (950, 1000)):  # the last two as Kubernetes sets them
        for pid in ("self", "7"):
            (tmp_path / pid).mkdir(exist_ok=True)
            (tmp_path / pid / "oom_score_adj").write_text(f"{own}\n")
        kill_sooner(7, tmp_path)
        assert (tmp_path / "7" / "oom_score_adj").read_text() == str(expected)
    kill_sooner(8, tmp_path)
    with subprocess.Popen(["sleep", "60"]) as child:
        kill_sooner(child.pid)
        own, other = (int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in ("self", child.pid))
        child.kill()
    assert other == min(own + SOONER, 1000)
