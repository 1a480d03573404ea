"""The real model in one command: what it shows, and how long two cores work for it."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from build_engine.catalog import MODELS
from build_engine.checkpoint import Checkpoint
from nimble_coder.engine.compiled import find_step
from tests.conftest import EMBEDDED

ROOT = EMBEDDED.parents[1]


@dataclass(frozen=True)
class Run:
    """One `scripts/quickstart --model NAME --from DIRECTORY --once`, its environment being there."""

    output: str
    processor_seconds: float
    """Of all its processes: unlike the clock's, they depend little on what else the machine does."""


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
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        used = {process.pid: 0.0}
        while process.poll() is None:
            look(used)
            time.sleep(0.2)
    output = log.read_text(encoding="utf-8")
    assert process.returncode == 0, output
    return Run(output, sum(used.values()))


def look(used: dict[int, float]) -> None:
    """Updates the processor seconds by process, and adds children, also those that nobody will wait for."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = file.read_text().rpartition(") ")[2].split()  # proc_pid_stat(5), from the third field on
            pid, parent, ticks = int(file.parent.name), int(fields[1]), int(fields[11]) + int(fields[12])
            if pid in used or parent in used:
                used[pid] = ticks / os.sysconf("SC_CLK_TCK")


def test_it_shows_what_the_readme_says(runs: list[Run]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```\n(def is_leap_year.*?)```", readme, re.DOTALL)
    for run in runs:
        lines = [line.rstrip() for line in run.output.splitlines()]
        for line in shown.splitlines():
            assert re.sub(r" *# .*|[\[\]]", "", line) in lines, line


def test_the_first_takes_two_minutes_and_the_second_thirty_seconds_of_two_cores(runs: list[Run]) -> None:
    """Building is one core's work, decoding that of two. Without AVX-512 a step in bf16 takes half as long again."""
    first, second = (run.processor_seconds for run in runs)
    print(f"processor seconds: {first:.0f}, then {second:.0f}")
    assert 10 < first < 120
    has_avx512 = find_step()[0].name.startswith("step-avx512")
    assert 10 < second < 30 * 2 * (1.0 if has_avx512 else 1.5)
