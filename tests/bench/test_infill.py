"""Holes in the standard library are the same each time, and answers are judged by what stood there."""

import shutil
import sysconfig
from pathlib import Path

import pytest

from nimble_coder.bench.infill import KINDS, Fill, Hole, holes, judged, similarity, stripped, summary

LIBRARY = Path(sysconfig.get_path("stdlib"))


def test_at_least_a_hundred_functions_have_a_hole_each_of_every_kind() -> None:
    found = holes(102, LIBRARY)
    assert len({hole.name for hole in found}) == 102
    assert [hole.kind for hole in found] == [*KINDS] * 34
    for hole in found:
        lines = hole.text.splitlines()
        assert (len(lines) == {"line": 1, "six lines": 6}.get(hole.kind, len(lines))) and hole.text.strip()
        source = (LIBRARY / f"{hole.name.split('.')[0]}.py").read_text(encoding="utf-8")
        assert hole.prefix + hole.text + hole.suffix in source


def test_holes_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("argparse", "textwrap"):
        shutil.copy(LIBRARY / f"{name}.py", tmp_path)
    assert len(holes(6, tmp_path)) == 6
    assert holes(6, tmp_path) == holes(6, tmp_path)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("", "", 1),
        ("abc", "abc", 1),
        ("abc", "", 0),
        ("abc", "xyz", 0),
        ("kitten", "sitting", 1 - 3 / 7),
        ("a", "ab", 0.5),
    ],
)
def test_the_similarity_is_one_less_the_share_that_is_edited(left: str, right: str, expected: float) -> None:
    assert similarity(left, right) == pytest.approx(expected)


def test_what_an_answer_has_beyond_the_hole_does_not_count() -> None:
    hole = Hole("x", "six lines", "", "", "\n    a = 1\n    b = 2\n")
    assert judged(hole, "    a = 1  \n    b = 2\n    c = 3\n").is_exact
    assert not judged(hole, "    a = 1").is_exact


def test_blanks_at_the_ends_of_lines_do_not_count() -> None:
    assert stripped("  a = 1  \n\tb\n\n") == stripped("  a = 1\n\tb") != stripped("a = 1\n\tb")


def test_the_summary_has_a_line_a_kind_and_one_for_all() -> None:
    lines = summary([Fill("a", "line", "", True, 1.0), Fill("b", "body", "", False, 0.5)]).splitlines()
    assert [line.split()[0] for line in lines] == ["line", "body", "all"]
    assert "50.0 % exact, edit similarity 0.750" in lines[-1]
