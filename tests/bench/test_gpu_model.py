"""The tables of the cost model's page are those that its command prints."""

import pytest

from nimble_coder.bench.figure import Lines, figure_of
from nimble_coder.bench.gpu_model import by_rows, proposals, published
from tests.conftest import EMBEDDED

DOCS = EMBEDDED.parents[1] / "docs"
PAGE = (DOCS / "cost-model.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", [published, by_rows, proposals])
def test_the_page_has_the_table_that_the_command_prints(table: object) -> None:
    assert callable(table)
    assert f"\n{table()}\n" in PAGE


def test_the_figure_shows_the_table_of_speed_ups_by_rows() -> None:
    figure = figure_of(PAGE)
    assert isinstance(figure, Lines)
    assert figure.groups[0] == "1"
    assert figure.series[-1] == "0.5B on a CPU's core"
    assert figure.svg() == (DOCS / "images" / "speedup-by-rows.svg").read_text(encoding="utf-8")
