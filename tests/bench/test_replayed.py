"""Recorded answers are drafted anew, and step times that somebody measured decide which drafts go."""

import json
from pathlib import Path

import pytest

from build_engine.lookahead import LookaheadConfig
from nimble_coder.bench import replayed
from nimble_coder.bench.checkpoint_engine import EMBEDDED_MODEL
from nimble_coder.bench.replayed import recordings, step_times, together, ways
from nimble_coder.engine.budget import StepCosts
from nimble_coder.text.tokenizer import TextTokenizer


def test_drafts_go_where_rows_are_free_and_not_where_each_costs_as_much_as_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [{"task_id": f"HumanEval/{i}", "prompt": f"def f{i}():\n"} for i in range(4)]
    monkeypatch.setattr(replayed, "humaneval_problems", lambda _: problems)  # they are in a package of their own
    tokens = [7, 8, 9, 10, 11, 12] * 20
    answers = [{"task": f"HumanEval/{i}", "text": "", "token_ids": tokens} for i in range(4)]
    others = {"tokens": 120, "accepted_drafts": 0, "seconds": 1.0, "passed": None}
    (tmp_path / "answers.json").write_text(json.dumps([{**answer, **others} for answer in answers]))
    recorded = recordings(tmp_path / "answers.json", TextTokenizer(EMBEDDED_MODEL), 60)
    assert {len(each.output) for each in recorded} == {60}
    free, dear = StepCosts(step_times(["1:1.0", "64:1.01"])), StepCosts(step_times(["1:1.0", "64:64.0"]))
    made = ways([LookaheadConfig(1, 5, 5)], None)
    assert list(made) == ["plain", "suffixes", "(1,5,5)"]
    plain = together(recorded, 2, made["plain"], free)
    assert {(step.sequences, step.rows, step.tokens) for step in plain} == {(2, 2, 2)}
    assert len(together(recorded, 2, made["suffixes"], free)) < len(plain) / 3
    assert sum(step.rows for step in together(recorded, 2, made["suffixes"], dear)) < 1.1 * sum(s.rows for s in plain)
