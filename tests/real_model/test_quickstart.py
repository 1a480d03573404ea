"""The real model in one command: what it shows, and how long two cores work for it."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from build_engine.catalog import MODELS
from build_engine.checkpoint import Checkpoint
from tests.conftest import EMBEDDED

ROOT = EMBEDDED.parents[1]
CORES = 2


@dataclass(frozen=True)
class Run:
    """One `scripts/quickstart --model NAME --from DIRECTORY --once`, its environment being there."""

    output: str
    processor_seconds: float
    """Of all its processes: unlike the clock's, they do not depend on what else the machine does."""


@pytest.fixture(scope="module")
def runs(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """The first one, which builds, and the second, which finds the engine."""
    place = tmp_path_factory.mktemp("quickstart")
    alike = (name for name, model in MODELS.items() if model.shape == checkpoint.shape and model.is_instruct)
    command = [
        *(sys.executable, "-P", "-m", "nimble_coder.commands.quickstart", "--model", next(alike)),
        *("--from", str(checkpoint.directory), "--once", "--free-ports", "--cache", str(place / "cache")),
    ]
    return [run(command, place / f"{number}.log") for number in (1, 2)]


def run(command: list[str], log: Path) -> Run:
    """Runs it to its end."""
    with log.open("wb") as file:
        to_log = [(os.POSIX_SPAWN_DUP2, file.fileno(), descriptor) for descriptor in (1, 2)]
        process = os.posix_spawn(command[0], command, {**os.environ, "PYTHONPATH": str(ROOT)}, file_actions=to_log)
        _, status, used = os.wait4(process, 0)
    output = log.read_text(encoding="utf-8")
    assert os.waitstatus_to_exitcode(status) == 0, output
    return Run(output, used.ru_utime + used.ru_stime)


def test_it_shows_what_the_readme_says(runs: list[Run]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```\n(def is_leap_year.*?)```", readme, re.DOTALL)
    for run in runs:
        lines = [line.rstrip() for line in run.output.splitlines()]
        for line in shown.splitlines():
            assert re.sub(r" *# .*|[\[\]]", "", line) in lines, line


def test_the_first_takes_two_minutes_of_two_cores_and_the_second_thirty_seconds(runs: list[Run]) -> None:
    first, second = (run.processor_seconds / CORES for run in runs)
    print(f"processor time over {CORES} cores: {first:.0f} s, then {second:.0f} s")
    assert first < 120
    assert second < 30
