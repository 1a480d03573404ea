"""Triton and the gateway get as many open files as the hard limit allows; one that is too low is told at once."""

import subprocess
import sys

import pytest

from nimble_coder.processes.open_files import LEAST

TAKE = """
import resource, sys
from nimble_coder.processes import open_files
from nimble_coder.processes.open_files import OpenFilesError, take_open_files
open_files.WANTED = 2048
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
try:
    take_open_files()
except OpenFilesError as error:
    raise SystemExit(f"{error.exit_code}: {error}")
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def taken(soft: int, hard: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", TAKE, str(soft), str(hard)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("soft", "hard", "got"),
    [(64, LEAST, LEAST), (512, 1024, 1024), (1024, 3072, 2048), (3072, 3072, 3072)],
)
def test_the_limit_is_raised_as_far_as_is_wanted_and_never_lowered(soft: int, hard: int, got: int) -> None:
    assert taken(soft, hard).stdout.split() == [str(got), str(hard)]


def test_too_few_are_refused_with_what_to_do() -> None:
    done = taken(64, 128)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"3: the hard limit of open files is 128, Triton and a gateway need {LEAST} or more: "
    )
