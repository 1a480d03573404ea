"""What a killed service has left is swept away; what a running one has is not."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nimble_coder.processes.work_directory import KINDS, SHARED_MEMORY, WorkDirectory, sweep

KILLED = """
import os, signal
from nimble_coder.processes.work_directory import WorkDirectory
print(WorkDirectory("{kind}").create(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_of_a_killed_process_is_swept(kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED.format(kind=kind)], capture_output=True, text=True, check=False)
    left = Path(done.stdout.strip())
    (left / "deep").mkdir()
    (left / "deep" / "file").touch()
    region = SHARED_MEMORY / f"nimble-{left.name}-1"
    region.touch()
    sweep()
    assert not left.exists()
    assert not region.exists()


def test_directories_in_use_and_those_of_others_stay(tmp_path: Path) -> None:
    own = WorkDirectory("serving")
    assert own.create() == own.create() == own.path
    other = tmp_path / "nimble-serving-without-owner"
    other.mkdir()
    sweep()
    assert own.path.is_dir()
    assert other.is_dir()
    own.remove()
    assert not own.path.exists()
    own.remove()
