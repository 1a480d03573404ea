"""Infills of Python's standard library through a running service: how many it writes as they stood, and how nearly.

    scripts/bench infill [--url http://127.0.0.1:8000] [--count 102] [--json FILE]

Functions are taken from the standard library of the Python that runs this, evenly spread over its modules' names, so
that the repository holds none of their text. Each has one hole: a line, six lines, or its whole body, by turns. The
service gets the file around the hole as an editor sends it, greedily. Of an answer count as many lines as are missing.
It is right where it is what stood there, blanks that nobody sees aside; how near it is, is one less the share of its
characters that must be edited (Levenshtein).
"""

import argparse
import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.progress import track

from nimble_coder.bench.arguments import new_file, positive_int
from nimble_coder.bench.asking import URL, asking, keep, post

KINDS = ("line", "six lines", "body")
BEFORE, BEHIND = 40, 20
"""Lines of the file around a hole that the service gets."""
LEAST, MOST = 10, 30
"""Lines of a function's body."""


@dataclass(frozen=True)
class Hole:
    """Lines that are missing in a file."""

    name: str
    kind: str
    prefix: str
    suffix: str
    text: str
    """What stood there."""

    @property
    def most_tokens(self) -> int:
        """Room for the answer: a token has two characters or more in code, but for blanks that stand together."""
        return len(self.text) // 2 + 16


@dataclass(frozen=True)
class Fill:
    """What the service wrote into a hole."""

    name: str
    kind: str
    text: str
    is_exact: bool
    similarity: float


def functions(directory: Path) -> Iterator[tuple[str, list[str], int, int]]:
    """Of the modules in a directory: name, the file's lines, and where the body lies, docstring aside, from and to."""
    for path in sorted(directory.glob("*.py")):
        source = path.read_text(encoding="utf-8", errors="replace")
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef):
                continue
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            if body and LEAST <= (body[-1].end_lineno or 0) - body[0].lineno + 1 <= MOST:
                lines = source.splitlines(keepends=True)
                yield f"{path.stem}.{node.name}", lines, body[0].lineno - 1, body[-1].end_lineno or 0


def holes(count: int, directory: Path) -> list[Hole]:
    """So many, one a function, of the kinds by turns; the same wherever the library is the same."""
    found = list(functions(directory))
    chosen = [found[i * len(found) // count] for i in range(min(count, len(found)))]
    return [hole_of(*each, KINDS[i % len(KINDS)]) for i, each in enumerate(chosen)]


def hole_of(name: str, lines: list[str], start: int, end: int, kind: str) -> Hole:
    """The hole of a kind in a function's body: in its middle, where it is not the whole."""
    if kind != "body":
        size = 1 if kind == "line" else 6
        start += (end - start - size) // 2
        while size == 1 and not lines[start].strip():  # a blank line is no question
            start -= 1
        end = start + size
    prefix, suffix = "".join(lines[max(start - BEFORE, 0) : start]), "".join(lines[end : end + BEHIND])
    return Hole(f"{name}:{start + 1}", kind, prefix, suffix, "".join(lines[start:end]))


def fill(url: str, hole: Hole) -> Fill:
    """Asks the service; raises `OSError` where it does not answer."""
    body = {"prompt": hole.prefix, "suffix": hole.suffix, "max_tokens": hole.most_tokens, "temperature": 0}
    if hole.kind == "line":
        body["stop"] = ["\n"]
    text = str(post(f"{url}/v1/completions", body)["choices"][0]["text"])
    return judged(hole, text)


def judged(hole: Hole, text: str) -> Fill:
    """An answer beside what stood there; a model that does not know where a hole ends writes on."""
    theirs = stripped(hole.text)
    mine = "\n".join(stripped(text).split("\n")[: theirs.count("\n") + 1])
    return Fill(hole.name, hole.kind, text, mine == theirs, round(similarity(mine, theirs), 4))


def stripped(text: str) -> str:
    """A text without the blanks that nobody sees."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def similarity(left: str, right: str) -> float:
    """1 for equal texts, 0 for those that have nothing in common: 1 - distance / the longer one's length."""
    row = list(range(len(right) + 1))
    for i, mine in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, theirs in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (mine != theirs))
    return 1 - row[-1] / max(len(left), len(right), 1)


def summary(fills: list[Fill]) -> str:
    """A line a kind, and one for all."""
    kinds = {kind: [fill for fill in fills if fill.kind == kind] for kind in KINDS}
    return "\n".join(
        f"{kind:10} {len(of):4} holes, {100 * fmean(f.is_exact for f in of):5.1f} % exact, "
        f"edit similarity {fmean(f.similarity for f in of):.3f}"
        for kind, of in [*kinds.items(), ("all", fills)]
        if of
    )


def main() -> None:
    """Asks, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=URL, help="of the service's HTTP endpoint")
    parser.add_argument("--count", type=positive_int, default=102, help="of functions, spread over the library")
    parser.add_argument("--json", type=new_file, help="a file for every answer")
    args = parser.parse_args()
    fills = list[Fill]()
    with asking(args.url) as url:
        for hole in track(holes(args.count, Path(sysconfig.get_path("stdlib"))), "Infills"):
            fills.append(fill(url, hole))
    keep(fills, args.json)
    print(summary(fills))


if __name__ == "__main__":
    main()
