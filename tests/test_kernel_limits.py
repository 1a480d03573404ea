"""Limits that Triton dies of without naming them are named before it is started."""

import io
import resource
from collections import deque
from pathlib import Path

import pytest

from nimble_coder.processes.errors import TaskLimitError, TritonError
from nimble_coder.processes.kernel_limits import ADDRESS_SPACE, GIB, TASKS, Refusals, narrow_limits
from nimble_coder.processes.log import ProcessLog


@pytest.mark.parametrize(
    ("space", "told"),
    [(8 * GIB, ["limited to 8.0 GiB (ulimit -v)"]), (ADDRESS_SPACE, []), (resource.RLIM_INFINITY, [])],
)
def test_an_address_space_that_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: int, told: list[str]
) -> None:
    limits = {resource.RLIMIT_AS: space}
    monkeypatch.setattr(resource, "getrlimit", lambda name: (limits.get(name, -1), resource.RLIM_INFINITY))
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


@pytest.mark.parametrize("limit", [100, TASKS, resource.RLIM_INFINITY])
def test_too_few_processes_and_threads_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    limits = {resource.RLIMIT_NPROC: limit}
    monkeypatch.setattr(resource, "getrlimit", lambda name: (limits.get(name, -1), resource.RLIM_INFINITY))
    told = [*narrow_limits(tmp_path, tmp_path / "membership")]
    assert [text[:60] for text in told] == (
        ["there may be 100 processes and threads at once (ulimit -u, a"] if limit == 100 else []
    )


def group_of(place: Path, version: int, refused: int) -> tuple[Path, Path]:
    """A control group that may have 100 processes and threads, as the kernel's files tell of it."""
    group = place if version == 2 else place / "pids"
    group.mkdir(exist_ok=True)
    (place / "membership").write_text("0::/\n" if version == 2 else "8:pids:/\n")
    (group / "pids.max").write_text("100\n")
    (group / "pids.events").write_text(f"max {refused}\n")
    return place, place / "membership"


@pytest.mark.parametrize("version", [1, 2])
def test_what_the_control_group_has_refused_since_the_start_is_told(tmp_path: Path, version: int) -> None:
    refusals = Refusals(None, *group_of(tmp_path, version, 3))
    refusals.check()
    refusals.check(TritonError("tritonserver was killed"))
    group_of(tmp_path, version, 4)
    with pytest.raises(TaskLimitError, match=r"refused a process or a thread: there may be 100 .*--pids-limit"):
        refusals.check()
    with pytest.raises(TaskLimitError, match=r"thread \(tritonserver was killed\): there may be 100 "):
        refusals.check(TritonError("tritonserver was killed"))
    refusals.check(TaskLimitError("it has been told"))


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: can't start new thread",
        "E1128 03:01:47.466768 9703 thd.cc:157] pthread_create failed: Resource temporarily unavailable",
        "  what():  Resource temporarily unavailable",
    ],
)
def test_a_refusal_that_only_a_process_tells_of(tmp_path: Path, line: str) -> None:
    log = ProcessLog(stream=io.StringIO())
    refusals = Refusals(log, tmp_path, tmp_path / "membership")
    log.recent["gateway"] = deque(["another", line])
    with pytest.raises(TaskLimitError, match="refused a process or a thread: there is a limit on them: raise it"):
        refusals.check()


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), BlockingIOError(11, "Resource temporarily unavailable")]
)
def test_a_refusal_of_what_the_supervisor_starts(tmp_path: Path, error: Exception) -> None:
    refusals = Refusals(None, tmp_path, tmp_path / "membership")
    refusals.check(RuntimeError("something else"))
    with pytest.raises(TaskLimitError, match=str(error)[-11:]):
        refusals.check(error)
