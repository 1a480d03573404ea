"""Limits that Triton dies of without naming them are named before it is started."""

import errno
import io
import os
import resource
import subprocess
from pathlib import Path

import pytest

from nimble_coder.processes import kernel_limits
from nimble_coder.processes.errors import TaskLimitError, TritonError
from nimble_coder.processes.kernel_limits import ADDRESS_SPACE, GIB, TASKS, Refusals, is_exempt, narrow_limits
from nimble_coder.processes.log import REMEMBERED, ProcessLog
from tests.test_process_log import written


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
    monkeypatch.setattr(kernel_limits, "is_exempt", lambda: False)
    monkeypatch.setattr(resource, "getrlimit", lambda name: (limits.get(name, -1), resource.RLIM_INFINITY))
    told = [*narrow_limits(tmp_path, tmp_path / "membership")]
    assert [text[:60] for text in told] == (
        ["there may be 100 processes and threads at once (ulimit -u, a"] if limit == 100 else []
    )


@pytest.mark.parametrize(
    ("uid", "capabilities", "map_of_ids", "exempt"),
    [
        (0, "0000000000000000", "0 0 4294967295", True),
        (1000, "0000000000000000", "0 0 4294967295", False),
        (1000, "0000000001000000", "0 0 4294967295", True),  # CAP_SYS_RESOURCE
        (1000, "0000000000200000", "0 0 4294967295", True),  # CAP_SYS_ADMIN
        (1000, "00000000000005fb", "0 0 4294967295", False),
        (0, "000001ffffffffff", "0 1000 1", False),  # root of a user namespace, as in rootless containers
    ],
)
def test_who_may_have_more_than_the_users_limit(
    tmp_path: Path, uid: int, capabilities: str, map_of_ids: str, exempt: bool
) -> None:
    (tmp_path / "status").write_text(f"Name:\tpython\nUid:\t{uid}\t1\t1\t1\nCapEff:\t{capabilities}\n")
    (tmp_path / "uid_map").write_text("  ".join(map_of_ids.split()) + "\n")
    assert is_exempt(tmp_path) == exempt
    (tmp_path / "uid_map").unlink()
    assert not is_exempt(tmp_path)


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
    log, place = ProcessLog(stream=io.StringIO()), (tmp_path, tmp_path / "membership")
    refusals = Refusals(log, *place)
    written(log, "gateway", f"another\n{line}\n".encode())
    with pytest.raises(TaskLimitError, match="refused a process or a thread: there is a limit on them: raise it"):
        refusals.check()
    refusals.move_on()
    with pytest.raises(TaskLimitError):
        refusals.check()
    refusals.move_on()
    refusals.check(TritonError("tritonserver was killed, an hour later"))
    later = Refusals(log, *place)
    written(log, "gateway", b"more\n" * (REMEMBERED - 1))  # the line is the last that is remembered
    later.check()
    written(log, "gateway", f"{line}\n".encode())
    with pytest.raises(TaskLimitError):
        later.check()


def test_a_refusal_of_what_the_supervisor_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = Refusals(None, tmp_path, tmp_path / "membership")
    refusals.check(RuntimeError("something else"))
    with pytest.raises(TaskLimitError, match="can't start new thread"):
        refusals.check(RuntimeError("can't start new thread"))
    # What forks is no Python function, and has no frame: here it fails of its arguments.
    monkeypatch.setattr("subprocess._fork_exec", len)
    with pytest.raises(TypeError) as caught:
        subprocess.run(["true"], check=True)
    refused = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)).with_traceback(caught.tb)
    with pytest.raises(TaskLimitError, match="Resource temporarily unavailable"):
        refusals.check(refused)


def test_what_would_block_is_no_refusal(tmp_path: Path) -> None:
    refusals = Refusals(None, tmp_path, tmp_path / "membership")
    reading, writing = os.pipe2(os.O_NONBLOCK)
    with pytest.raises(BlockingIOError) as caught:
        os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    refusals.check(caught.value)
