"""Shared memory that Triton could not start with is named before it is."""

from pathlib import Path

import pytest

from build_engine.exit_codes import exit_code_of
from nimble_coder.processes.shared_memory import SharedMemoryError, check_shared_memory


@pytest.mark.parametrize(
    ("mounted", "why"),
    [("size=4k", "No space left on device"), ("size=4m", "No space left"), ("ro", "Read-only file system")],
    indirect=["mounted"],
)
def test_too_little_of_it(mounted: Path, why: str) -> None:
    with pytest.raises(SharedMemoryError, match=why) as raised:
        check_shared_memory(mounted)
    assert "--shm-size 64m" in str(raised.value)
    assert exit_code_of(raised.value) == 3


def test_none(tmp_path: Path) -> None:
    with pytest.raises(SharedMemoryError, match="cannot be used: No such file or directory"):
        check_shared_memory(tmp_path / "shm")


@pytest.mark.parametrize("mounted", ["size=16m"], indirect=True)
def test_what_is_enough_is_left_as_it_was(mounted: Path) -> None:
    check_shared_memory(mounted)
    assert [*mounted.iterdir()] == []
