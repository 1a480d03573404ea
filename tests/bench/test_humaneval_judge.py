"""Kept answers are compared problem by problem."""

from pathlib import Path

import pytest

from nimble_coder.bench.asking import keep
from nimble_coder.bench.humaneval import Answer
from nimble_coder.bench.humaneval_judge import Compared, beside, differences, pairs, read


def answer(task: str, ids: list[int], passed: bool | None = None, seed: int = 0) -> Answer:
    return Answer(task, "text", len(ids), 0, 1.0, passed, ids, seed)


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1, 2], [1], 1), ([], [4, 5], 0), ([], [], None)],
)
def test_two_answers_differ_from_their_first_token_that_is_another_or_missing(
    one: list[int], other: list[int], place: int | None
) -> None:
    assert Compared.of(one, other) == Compared.of(other, one) == Compared(place, max(len(one), len(other)))


def test_only_problems_of_both_are_compared(tmp_path: Path) -> None:
    keep([answer("a", [1]), answer("b", [2]), answer("c", [3, 4])], tmp_path / "one.json")
    keep([answer("c", [3, 5]), answer("d", [6]), answer("a", [1])], tmp_path / "other.json")
    both = pairs(read(tmp_path / "one.json"), read(tmp_path / "other.json"))
    assert [(one.task, other.task) for one, other in both] == [("a", "a"), ("c", "c")]
    assert differences(both).startswith("1 of 2 answers are the same to the last token; the others from token 1 on")
    assert differences(both[:1]) == "1 of 1 answers are the same to the last token"


def test_rates_are_told_with_what_one_side_alone_solves() -> None:
    verdicts = [(True, True), (True, False), (False, True), (False, True)]
    both = [(answer(str(i), [], one), answer(str(i), [], other)) for i, (one, other) in enumerate(verdicts)]
    assert beside(both) == (
        "pass@1 50.0 and 75.0 (+25.0 ± 47.9) on the same 4 problems; "
        "1 answers are right of the first alone, 2 of the other"
    )


def test_samples_of_a_problem_are_compared_by_their_seeds_and_are_one_draw(tmp_path: Path) -> None:
    keep([answer("a", [seed], True, seed) for seed in range(4)], tmp_path / "one.json")
    keep([answer("a", [seed], seed > 1, seed) for seed in (3, 2, 1, 0)], tmp_path / "other.json")
    both = pairs(read(tmp_path / "one.json"), read(tmp_path / "other.json"))
    assert [one.token_ids for one, _ in both] == [other.token_ids for _, other in both]
    assert beside(both).startswith("pass@1 100.0 and 50.0 (-50.0 ± inf) on the same 1 problems; 2 answers are right of")
