"""A temporary directory that cannot be used is named before anything is started."""

import tempfile
from pathlib import Path

import pytest

from nimble_coder.processes.temporary_directory import NAMED_BY, TemporaryDirectoryError, check_temporary_directory


@pytest.fixture(autouse=True)
def _unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `tmp_path`, which asks for the usual one."""
    for name in NAMED_BY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)


def complaint() -> str:
    with pytest.raises(TemporaryDirectoryError) as raised:
        check_temporary_directory()
    return str(raised.value)


@pytest.mark.parametrize("name", NAMED_BY)
def test_the_one_that_is_named_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, str(tmp_path))
    assert str(check_temporary_directory()) == tempfile.gettempdir() == str(tmp_path)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", NAMED_BY)
def test_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/nowhere")
    assert f"/nowhere ({name}) cannot be used: No such file or directory" in complaint()


def test_one_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    assert f"{tmp_path}/file (TMPDIR) cannot be used: Not a directory" in complaint()


@pytest.mark.parametrize(
    ("mounted", "why"),
    [("ro", "Read-only file system"), ("size=1m", "No space left on device"), ("nr_inodes=1", "No space left")],
    indirect=["mounted"],
)
def test_one_that_has_no_room_or_is_read_only(mounted: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setenv("TMPDIR", str(mounted))
    assert f"{mounted} (TMPDIR) cannot be used: {why}" in complaint()


@pytest.mark.parametrize("mounted", ["ro", "nr_inodes=1"], indirect=True)
def test_the_one_that_triton_takes_in_any_case_is_tried_too(
    mounted: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("own")))
    with pytest.raises(TemporaryDirectoryError, match=f"^{mounted} cannot be used: .*wherever TMPDIR is"):
        check_temporary_directory(mounted)


@pytest.mark.parametrize(
    ("name", "unfit"),
    [
        ("temporär", "letters beyond ASCII"),
        *((f"a{sign}b", "signs that a shell reads") for sign in " \t'\"$&;|<>()`\\*?"),
    ],
)
def test_one_whose_path_tritons_python_cannot_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, unfit: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / name))
    assert unfit in complaint()


def test_no_usual_one_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    assert "the temporary directory cannot be used: No usable temporary directory found in ['/nowhere']" in complaint()
