"""HumanEval's answers are judged by their tests, and can do nothing else."""

import os
import time
from pathlib import Path

import pytest

from nimble_coder.bench import humaneval
from nimble_coder.bench.humaneval import Answer, passes, program_of, summary

PROBLEM = {
    "task_id": "HumanEval/x",
    "prompt": 'from typing import List\n\n\ndef add(numbers: List[int]) -> int:\n    """Their sum."""\n',
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("def add(numbers: List[int]) -> int:\n    return sum(numbers)\n", True),
        ("    return sum(numbers)\n", True),
        ("def add(numbers: List[int]) -> int:\n    return sum(numbers) + 1\n", False),
        ("def add(numbers: List[int]) -> int:\n    return sum(", False),
        ("import sys\ndef add(numbers: List[int]) -> int:\n    sys.exit(1)\n", False),
    ],
)
def test_an_answer_is_right_where_the_problems_tests_say_so(text: str, right: bool) -> None:
    assert passes(program_of(PROBLEM, text)) is right


@pytest.mark.parametrize(
    "deed",
    [
        "x = bytearray(4 << 30)",
        "with open('/tmp/nimble-humaneval-was-here', 'w') as file: file.write('x')",
        "with open('mine', 'w') as file: file.write('x')",
        "import os, signal; os.kill({pid}, 0)",
        "import os; assert 'NIMBLE_TEST_SECRET' in os.environ",
    ],
)
def test_an_answer_can_neither_grow_nor_write_nor_reach_others(deed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIMBLE_TEST_SECRET", "x")
    assert not passes(deed.format(pid=os.getpid()))
    trace = Path("/tmp/nimble-humaneval-was-here")  # noqa: S108 - what the deed names
    assert not trace.exists() or trace.stat().st_size == 0
    trace.unlink(missing_ok=True)


def test_an_answer_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(humaneval, "SECONDS", 2)
    started = time.monotonic()
    assert not passes("while True: pass")
    assert time.monotonic() - started >= 2


def test_the_summary_counts_problems_tokens_and_steps() -> None:
    answers = [Answer("a", "", 100, 50, 2.0, True, []), Answer("b", "", 100, 50, 2.0, False, [])]
    assert summary(answers).startswith("1 of 2 problems solved: pass@1 50.0; 200 tokens, 2.00 a step, 50.0 a second")
