"""Tries answers to HumanEval's problems that were kept, and compares them.

    scripts/bench humaneval-judge answers.json [OTHERS.json ...]

The answers are what `humaneval`, `humaneval-engine` or `humaneval-transformers` wrote; those of other files are
compared with the first file's on the problems of both.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, stdev

from rich.progress import track

from nimble_coder.bench.arguments import existing_file
from nimble_coder.bench.coding_prompts import humaneval_problems
from nimble_coder.bench.humaneval import Answer, passes, program_of, solved


@dataclass(frozen=True)
class Compared:
    """One problem's two answers, token by token."""

    first_difference: int | None
    """The index of the first token that differs; None where both are the same to the end."""
    tokens: int
    """Of the longer one."""

    @classmethod
    def of(cls, one: list[int], other: list[int]) -> "Compared":
        longer = max(len(one), len(other))
        differing = (i for i in range(longer) if one[i : i + 1] != other[i : i + 1])
        return cls(next(differing, None), longer)


def read(file: Path) -> list[Answer]:
    """Kept answers."""
    return [Answer(**fields) for fields in json.loads(file.read_text(encoding="utf-8"))]


def pairs(answers: list[Answer], others: list[Answer]) -> list[tuple[Answer, Answer]]:
    """The two answers to each problem, and by each seed, that both have."""
    found = {(other.task, other.seed): other for other in others}
    return [(answer, found[key]) for answer in answers if (key := (answer.task, answer.seed)) in found]


def differences(both: list[tuple[Answer, Answer]]) -> str:
    """One line: how many answers are the same to the last token, and where the others begin to differ."""
    compared = [Compared.of(one.token_ids, other.token_ids) for one, other in both]
    places = [each.first_difference for each in compared if each.first_difference is not None]
    told = f"{len(both) - len(places)} of {len(both)} answers are the same to the last token"
    return f"{told}; the others from token {median(places):.0f} on (median, least {min(places)})" if places else told


def judged(answers: list[Answer], what: str) -> list[Answer]:
    """The answers with the verdict of their problems' tests."""
    problems = {problem["task_id"]: problem for problem in humaneval_problems(164)}
    return [replace(a, passed=passes(program_of(problems[a.task], a.text))) for a in track(answers, what)]


def beside(both: list[tuple[Answer, Answer]]) -> str:
    """One line: the two rates on the same problems, which were tried, and which answers are right on one side alone.

    The standard error of the difference takes each problem as one draw, however many answers it has.
    """
    rates = [100 * sum(bool(each.passed) for each in side) / len(both) for side in zip(*both, strict=True)]
    alone = [sum(bool(a.passed) > bool(b.passed) for a, b in some) for some in (both, [(b, a) for a, b in both])]
    gains: dict[str, float] = defaultdict(float)
    for one, other in both:
        gains[one.task] += bool(other.passed) - bool(one.passed)
    error = 100 / len(both) * stdev(gains.values()) * len(gains) ** 0.5 if len(gains) > 1 else float("inf")
    return (
        f"pass@1 {rates[0]:.1f} and {rates[1]:.1f} ({rates[1] - rates[0]:+.1f} ± {error:.1f}) on the same {len(gains)} "
        f"problems; {alone[0]} answers are right of the first alone, {alone[1]} of the other"
    )


def main() -> None:
    """Tries and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=existing_file, nargs="+", metavar="answers.json")
    args = parser.parse_args()
    first: list[Answer] = []
    for file in args.files:
        answers = judged(read(file), file.name)
        print(f"{file.name}: {solved(answers)}")
        if both := pairs(first, answers):
            print(f"  beside {args.files[0].name}: {beside(both)}; {differences(both)}")
        first = first or answers


if __name__ == "__main__":
    main()
