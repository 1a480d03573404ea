"""Which steps are timed, and by which compiled library."""

from argparse import Namespace

import pytest

from nimble_coder.bench.step import chosen_library, rows_of
from nimble_coder.engine.compiled import find_step


def test_rows_are_timed_once_with_one_row_before_them() -> None:
    assert rows_of(Namespace(rows=[8, 2, 8])) == [1, 2, 8]
    assert {1, 8, 112} <= set(rows_of(Namespace(rows=None)))


def test_a_library_is_chosen_by_its_instruction_set() -> None:
    libraries = find_step()
    assert chosen_library(None) == libraries[0]
    for library in libraries:
        assert chosen_library(library.name.split("-")[1]) == library
    with pytest.raises(SystemExit, match="sse2 does not run here: choose one of"):
        chosen_library("sse2")
