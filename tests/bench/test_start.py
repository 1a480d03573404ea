"""The start of a real service of the embedded model is timed, and its memory told."""

import os
import sys
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from nimble_coder.bench import start
from nimble_coder.processes.children import descendants


def test_a_start_and_its_memory_are_told(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["start", str(artifact.directory), "--starts", "1", "--requests", "2"])
    before = set(descendants(os.getpid()))
    start.main()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    found = {row[0]: row[1:] for row in rows if len(row) == 4}
    assert all(median == least == most for median, least, most in found.values())
    seconds, *megabytes = (
        float(found[name][0].split()[0].replace(",", ""))
        for name in ("ready after", "engine, resident", "all processes", "engine, after 2 requests")
    )
    assert 0.5 < seconds < 100
    assert 20 < megabytes[0] <= megabytes[2] < megabytes[1] < 4000
    assert set(descendants(os.getpid())) == before  # nothing is left running


@pytest.mark.parametrize("name", ["nothing", "."])
def test_what_is_no_artefact_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["start", str(tmp_path / name)])
    with pytest.raises(SystemExit, match=r"give the directory that build-engine printed|run build-engine"):
        start.main()
    assert capsys.readouterr().out == ""


def test_a_service_that_ends_says_why(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIMBLE_CACHE", "relative and\nbroken")
    monkeypatch.setenv("NIMBLE_LOG_LEVEL", "nonsense")
    with pytest.raises(RuntimeError, match="NIMBLE_LOG_LEVEL"), start.serving(artifact.directory):
        pass
