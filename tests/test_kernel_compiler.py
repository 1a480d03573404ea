"""What the GPU's kernels need of a machine."""

import os
from pathlib import Path

import pytest

from nimble_coder.processes.kernel_compiler import KEPT, lacking, without_unwritable


def test_what_is_missing_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    found = dict(lacking())
    assert "install gcc and libc6-dev" in found["a C compiler"]
    assert all(found.values())
    monkeypatch.setenv("CC", "/usr/bin/cc")
    assert "a C compiler" not in dict(lacking())


def test_kernels_are_kept_where_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, kept in {tmp_path: True, tmp_path / "new" / "kernels": True, tmp_path / "file": False}.items():
        environment = {KEPT: str(place), "HOME": "/tmp"}  # noqa: S108 - a value
        assert without_unwritable(environment) == (environment if kept else {"HOME": environment["HOME"]})
    assert without_unwritable({"HOME": "/"}) == {"HOME": "/"}


def test_a_place_of_another_user_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert without_unwritable({KEPT: str(tmp_path / "kernels")}) == {}
