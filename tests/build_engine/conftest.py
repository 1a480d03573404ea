"""File systems that are full or read-only for real."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, where this test may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(disk: Path, free: int) -> None:
    """Leaves `free` bytes, to a page."""
    (disk / "filler").write_bytes(bytes(2_000_000 - free))


def make_read_only(disk: Path) -> None:
    """From now on nobody writes there, root included."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OSError, match="Read-only file system"):
        (disk / "probe").touch()
