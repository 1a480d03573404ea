"""The table of exit codes is the code's."""

import re
from pathlib import Path

from build_engine.exit_codes import ExitCode

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"


def test_the_documented_exit_codes_are_those_of_the_code() -> None:
    section = PAGE.read_text().split("## Exit codes")[1].split("## ")[0]
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", section, re.MULTILINE)
    assert rows == [(str(code.value), code.meaning) for code in ExitCode]
