"""Limits that Triton dies of without naming them are named before it is started."""

import resource
from pathlib import Path

import pytest

from nimble_coder.processes.kernel_limits import ADDRESS_SPACE, GIB, TASKS, narrow_limits


@pytest.mark.parametrize(
    ("space", "told"),
    [(8 * GIB, ["limited to 8.0 GiB (ulimit -v)"]), (ADDRESS_SPACE, []), (resource.RLIM_INFINITY, [])],
)
def test_an_address_space_that_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: int, told: list[str]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (space, resource.RLIM_INFINITY))
    found = [*narrow_limits(tmp_path, tmp_path / "membership")]
    assert len(found) == len(told)
    assert all(part in text for part, text in zip(told, found, strict=True))


@pytest.mark.parametrize(
    ("membership", "own"), [("0::/pod/container", "pod/container"), ("4:pids:/pod/container", "pids/pod/container")]
)
def test_too_few_processes_and_threads_in_the_group_or_one_around_it(tmp_path: Path, membership: str, own: str) -> None:
    file, group = tmp_path / "membership", tmp_path / own
    file.write_text(f"{membership}\n")
    group.mkdir(parents=True)
    assert [*narrow_limits(tmp_path, file)] == []
    (group / "pids.max").write_text("max\n")
    (group.parent / "pids.max").write_text(f"{TASKS}\n")
    assert [*narrow_limits(tmp_path, file)] == []
    (group.parent / "pids.max").write_text("100\n")
    (told,) = narrow_limits(tmp_path, file)
    assert "there may be 100 processes and threads at once" in told
