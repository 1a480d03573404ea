"""What the pages point to is there: links with their headings, and files that are named in text or in commands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("backends", "build_engine", "deploy", "docs", "model_repository", "nimble_coder", "requirements", "scripts",
           "tests", "training")  # fmt: skip
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
PATH = re.compile(rf"(?<![\w./{{}}$~*-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w(?![\w*])")
FILE = re.compile(r"`([\w/]+\.(?:py|h|cpp|md))`")
ELSEWHERE = {"infer_handler.h", "gpu-acceptance.md", "deploy/coder-nimble-coder"}
"""Triton's, what a script writes, and a Deployment to kubectl."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = {*PATH.findall(text), *FILE.findall(text)} - ELSEWHERE
    assert [name for name in sorted(named) if not is_there(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_to_a_page_and_a_heading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (heading and heading not in headings(target)):
            broken.append(link)
    assert broken == []


def test_every_page_that_the_code_names_is_there() -> None:
    sources = [path for name in NAMES if (path := ROOT / name).suffix in (".py", ".cpp", ".h", ".yaml", ".jinja")]
    named = {name for path in sources for name in re.findall(r"(?<![\w/])docs/[a-z-]+\.md", path.read_text("utf-8"))}
    assert named
    assert sorted(name for name in named - {"docs/gguf.md"} if not is_there(name)) == []  # that is of ggml


def is_there(name: str) -> bool:
    """By its path from the root, or by the end of it, as in a table that says which folder it is about."""
    return (ROOT / name).exists() or any(known.endswith(f"/{name}") for known in NAMES)


def headings(page: Path) -> set[str]:
    """As links spell them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}
