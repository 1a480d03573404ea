"""What the kernel says about processes it killed for memory."""

from pathlib import Path

from nimble_coder.processes.memory import oom_kills


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
