"""What a killed service has left is swept away; what a running one has is not."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nimble_coder.processes import work_directory
from nimble_coder.processes.shared_memory import PLACE
from nimble_coder.processes.work_directory import KINDS, NEW, WorkDirectory, locked, sweep

KILLED = """
import os, signal
from nimble_coder.processes.shared_memory import PLACE
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
    region = PLACE / f"nimble-{left.name}-1"
    region.touch()
    sweep()
    assert not left.exists()
    assert not region.exists()


@pytest.mark.parametrize("begun", [[], [NEW]])
def test_a_directory_whose_process_was_killed_before_it_had_marked_it_is_swept(
    tmp_path: Path, begun: list[str]
) -> None:
    left = WorkDirectory("triton").path
    left.mkdir()
    for name in begun:
        (left / name).touch()
    sweep()
    assert not left.exists()


@pytest.mark.parametrize("begun", [[], [NEW]])
def test_one_that_is_swept_before_its_process_has_marked_it_is_made_again(
    monkeypatch: pytest.MonkeyPatch, begun: list[str]
) -> None:
    swept: list[Path] = []

    def late(directory: Path) -> int:
        if not swept:
            for name in begun:
                (directory / name).touch()
            sweep()
            assert not directory.exists()
            swept.append(directory)
        return locked(directory)

    monkeypatch.setattr(work_directory, "locked", late)
    own = WorkDirectory("serving")
    assert own.create() == swept[0]
    sweep()
    assert own.path.is_dir()
    own.remove()


def test_one_that_is_looked_for_in_the_midst_of_its_sweep_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the end of its mark and its own."""

    def late(directory: Path) -> int:
        monkeypatch.setattr(work_directory, "locked", locked)
        raise FileNotFoundError

    monkeypatch.setattr(work_directory, "locked", late)
    own = WorkDirectory("serving")
    assert own.create().is_dir()
    own.remove()


def test_directories_in_use_and_those_of_others_stay(tmp_path: Path) -> None:
    own = WorkDirectory("serving")
    assert own.create() == own.create() == own.path
    others = [tmp_path / "nimble-serving-without-owner", tmp_path / "nimble-serving-0123456789ab"]
    for other in others:
        other.mkdir()
    (others[1] / "file").touch()
    sweep()
    assert own.path.is_dir()
    assert all(other.is_dir() for other in others)
    own.remove()
    assert not own.path.exists()
    own.remove()
