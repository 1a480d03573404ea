"""An infill's prompt in the order of its file, and what drafts gain by it."""

from pathlib import Path

import pytest

from nimble_coder.contract.request import Request
from nimble_coder.engine.drafter import Texts, make_drafter
from nimble_coder.engine.generate import generate
from nimble_coder.engine.infill import InfillMarks
from nimble_coder.text.added_tokens import added_tokens
from tests.conftest import EMBEDDED
from tests.engine.conftest import LoadEngine

PREFIX, SUFFIX, MIDDLE = 1, 2, 3
MARKS = InfillMarks(PREFIX, SUFFIX, MIDDLE)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ([PREFIX, 10, 11, SUFFIX, 20, MIDDLE], [SUFFIX, 20, MIDDLE, PREFIX, 10, 11]),
        ([7, 8, PREFIX, 10, SUFFIX, 20, MIDDLE], [7, 8, SUFFIX, 20, MIDDLE, PREFIX, 10]),  # other files before it
        (
            [PREFIX, 9, SUFFIX, MIDDLE, 5, PREFIX, SUFFIX, MIDDLE],
            [PREFIX, 9, SUFFIX, MIDDLE, 5, SUFFIX, MIDDLE, PREFIX],
        ),
        ([SUFFIX, 20, PREFIX, 10, MIDDLE], [SUFFIX, 20, PREFIX, 10, MIDDLE]),
        ([PREFIX, 10, MIDDLE], [PREFIX, 10, MIDDLE]),
        ([PREFIX, 10, SUFFIX, 20], [PREFIX, 10, SUFFIX, 20]),
        ([10, 11], [10, 11]),
        ([], []),
    ],
)
def test_what_is_before_the_hole_comes_last(prompt: list[int], text: list[int]) -> None:
    assert MARKS.in_file_order(prompt) == text


def test_an_answer_is_drafted_by_what_stands_before_its_hole_not_at_the_end_of_the_file() -> None:
    before, hole, behind = [*range(100, 110)], [*range(50, 56)], [*range(200, 210)]
    earlier = make_drafter(Request([9], 1), None, Texts([*before, *hole, *behind]))
    prompt = [PREFIX, *before, SUFFIX, *behind, MIDDLE]
    assert earlier.corpus is not None
    drafters = [
        make_drafter(Request(prompt, 1), None, Texts(text, [earlier.corpus]))
        for text in (MARKS.in_file_order(prompt), prompt)
    ]
    for drafter in drafters:
        drafter.commit(hole[:1])
    in_file_order, as_it_stands = (drafter.draft(hole[0], 4) for drafter in drafters)
    assert in_file_order.tokens == hole[:5]
    assert in_file_order.likelihoods[1] > 2 * as_it_stands.likelihoods[1]


def test_marks_are_among_the_control_tokens_and_a_model_without_them_has_none() -> None:
    assert InfillMarks.among(added_tokens(EMBEDDED)) is not None
    assert InfillMarks.among({"<|fim_prefix|>": 0}) is None
    assert InfillMarks.among({}) is None


def test_an_engine_reads_its_control_tokens_once(load_engine: LoadEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    whole = Path.read_bytes

    def reading(self: Path) -> bytes:
        read.append(self)
        return whole(self)

    monkeypatch.setattr(Path, "read_bytes", reading)
    load_engine(EMBEDDED)
    assert [path.name for path in read if path.suffix == ".json"].count("tokenizer.json") == 1


def test_the_third_time_a_hole_is_drafted_from_its_earlier_answers(load_engine: LoadEngine, free_rows: None) -> None:
    """A token has changed behind the hole each time; what is drafted and accepted depends on no clock."""
    engine = load_engine(EMBEDDED, precision="fp32")
    marks = InfillMarks.among(added_tokens(EMBEDDED))
    assert marks is not None
    before, behind = [300 + i * i % 41 for i in range(40)], [400 + i * i % 37 for i in range(40)]
    found = []
    for changed in (500, 501, 502):
        prompt = [marks.prefix, *before, marks.suffix, *behind, changed, *behind[:5], marks.middle]
        found += generate(engine, [Request(prompt, 40, draft_pool="mine")])
    assert found[2].tokens_per_step > 1.5 * found[0].tokens_per_step
