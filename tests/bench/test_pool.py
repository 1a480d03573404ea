"""What a file's requests are in each session, and what their figures come to."""

import pytest

from nimble_coder.bench.lookahead import infills
from nimble_coder.bench.pool import HOLE, SESSIONS, WORD, File

MODULE = "textwrap"


def parts(session: str, number: int, typed: str = "") -> tuple[str, str]:
    """What is before and behind the hole."""
    before, _, behind = SESSIONS[session](MODULE, number, typed).partition("<|fim_suffix|>")
    return before.removeprefix("<|fim_prefix|>"), behind.removesuffix("<|fim_middle|>")


def test_what_is_typed_stands_before_the_hole_and_nothing_else_changes() -> None:
    before, behind = parts("typing", 0)
    assert parts("typing", 3, "    return") == (before + "    return", behind)


def test_changes_are_comments_elsewhere_one_more_each_time() -> None:
    first, tenth = "".join(parts("changes", 0)), "".join(parts("changes", 9))
    added = [line for line in tenth.splitlines() if line not in first.splitlines()]
    assert added == sorted(added, key=tenth.index)
    assert len(added) == 9
    assert all(line.startswith("# Revision") for line in added)


def test_holes_are_other_ones() -> None:
    holes = {number: File.of(MODULE, number).before for number in range(10)}
    assert len({len(before) for before in holes.values()}) > 5
    assert {len(before) + len(File.of(MODULE, n).behind) + HOLE for n, before in holes.items()} == {90}


@pytest.mark.parametrize(
    ("answer", "word"), [("        self._x = 1", "        self"), ("._x", "."), ("_x = 1", "_x"), (" = 1", " =")]
)
def test_a_word_is_typed_with_the_blanks_before_it(answer: str, word: str) -> None:
    found = WORD.match(answer)
    assert found is not None
    assert found.group() == word


def test_infills_of_the_standard_library_lack_six_lines_each() -> None:
    prompts = infills(4)
    assert len(prompts) == 4
    assert all(text.startswith("<|fim_prefix|>") and text.endswith("<|fim_middle|>") for text in prompts.values())
