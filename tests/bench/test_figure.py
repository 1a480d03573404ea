"""The figures in the documentation are those of its tables."""

import pytest

from nimble_coder.bench.figure import Bars, Lines, figure_of
from tests.conftest import EMBEDDED

DOCS = EMBEDDED.parents[1] / "docs"


def test_the_figure_shows_what_the_page_s_table_says() -> None:
    page = (DOCS / "gpu-benchmarks.md").read_text(encoding="utf-8")
    bars = figure_of(page)
    assert not isinstance(bars, Lines)
    assert bars.groups[0] == "plain"
    assert bars.series == ["0.5B", "1.5B"]
    assert all(value == 1 for value in bars.values[0])
    assert bars.svg() == (DOCS / "images" / "gpu-speedup.svg").read_text(encoding="utf-8")


def test_a_page_without_speed_ups_is_an_error() -> None:
    with pytest.raises(ValueError, match="speed-up"):
        Bars.read("| a | b |\n|---|---|\n| 1 | 2 |\n")
