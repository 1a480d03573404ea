"""The page about settings is the settings."""

from pathlib import Path

from nimble_coder.settings.documentation import page

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "python -m nimble_coder.settings.documentation > docs/configuration.md"


def test_a_setting_is_one_row() -> None:
    """A meaning of two lines would end the table."""
    assert [line for line in page().splitlines() if line.startswith("|") and not line.endswith("|")] == []
