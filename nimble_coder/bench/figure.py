"""A page's table of speed-ups as bars, in the manner of NVIDIA's lookahead post.

    python3 -m nimble_coder.bench.figure docs/gpu-benchmarks.md docs/images/gpu-speedup.svg

Reads the first table whose columns are called `... speed-up`: a group of bars for each row, a bar for each such column.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

BAR, GAP, HEIGHT, MARGIN = 34, 22, 220, 40
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
SUFFIX = " speed-up"


@dataclass(frozen=True)
class Bars:
    """What is drawn: `values[group][series]`, as factors."""

    groups: list[str]
    series: list[str]
    values: list[list[float]]

    @classmethod
    def read(cls, page: str) -> "Bars":
        """From the page's first such table; raises `ValueError` where there is none."""
        for block in re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
            columns = [index for index, name in enumerate(rows[0]) if name.endswith(SUFFIX)]
            if columns:
                body = rows[2:]
                values = [[float(row[index].rstrip("x")) for index in columns] for row in body]
                return cls([row[0] for row in body], [rows[0][index].removesuffix(SUFFIX) for index in columns], values)
        raise ValueError(f"no table has a column called '...{SUFFIX}'")

    def svg(self) -> str:
        """The figure."""
        group_width = BAR * len(self.series) + GAP
        width, height = 2 * MARGIN + group_width * len(self.groups), HEIGHT + 2 * MARGIN + 20
        scale = HEIGHT / max(max(row) for row in self.values)
        parts = [text(MARGIN + i * 90 + 16, 18, name, "start") for i, name in enumerate(self.series)]
        parts += [rectangle(MARGIN + i * 90, 8, 12, 12, COLOURS[i]) for i in range(len(self.series))]
        for group, (label, row) in enumerate(zip(self.groups, self.values, strict=True)):
            left = MARGIN + group * group_width
            parts.append(text(left + BAR * len(row) / 2, HEIGHT + MARGIN + 18, label))
            for index, value in enumerate(row):
                tall = value * scale
                parts.append(rectangle(left + index * BAR, HEIGHT + MARGIN - tall, BAR - 3, tall, COLOURS[index]))
                parts.append(text(left + index * BAR + BAR / 2 - 1, HEIGHT + MARGIN - tall - 4, f"{value:.1f}x"))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
            f"{''.join(parts)}</svg>\n"
        )


def rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.0f}" y="{y:.1f}" width="{width:.0f}" height="{height:.1f}" fill="{colour}"/>'


def text(x: float, y: float, content: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.0f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    args.output.write_text(Bars.read(args.page.read_text(encoding="utf-8")).svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
