"""A page's table of speed-ups as a figure: bars, in the manner of NVIDIA's lookahead post, or lines.

    python3 -m nimble_coder.bench.figure docs/gpu-benchmarks.md docs/images/gpu-speedup.svg
    python3 -m nimble_coder.bench.figure docs/cost-model.md docs/images/speedup-by-rows.svg

Reads the first table whose columns are called `... speed-up`: a group of bars for each row, a bar for each such column.
Where the first column holds numbers, it is a line for each such column over that number.
"""

import argparse
import math
import re
from dataclasses import dataclass
from xml.sax.saxutils import escape

from nimble_coder.bench.arguments import existing_file, new_file

BAR, GAP, HEIGHT, MARGIN = 34, 22, 220, 40
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756")
WIDTH, LEGEND = 460, 190
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
        return drawing(width, height, parts)


class Lines(Bars):
    """The same over numbers, on a logarithmic axis."""

    def svg(self) -> str:
        """The figure."""
        at = [math.log(float(group)) for group in self.groups]
        most = max(max(row) for row in self.values)

        def x(place: float) -> float:
            return MARGIN + (place - at[0]) / (at[-1] - at[0]) * WIDTH

        def y(value: float) -> float:
            return HEIGHT + MARGIN - value / most * HEIGHT

        parts = [text(x(place), HEIGHT + MARGIN + 18, group) for place, group in zip(at, self.groups, strict=True)]
        parts.append(text(x(at[-1]) + 24, HEIGHT + MARGIN + 18, "rows", "start"))
        for value in range(int(most) + 1):
            parts += [
                rectangle(MARGIN, y(value), WIDTH, 0.5, "#ccc"),
                text(MARGIN - 6, y(value) + 4, f"{value}x", "end"),
            ]
        for i, name in enumerate(self.series):
            points = " ".join(f"{x(place):.1f},{y(row[i]):.1f}" for place, row in zip(at, self.values, strict=True))
            parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[i]}" stroke-width="2"/>')
            parts.append(rectangle(MARGIN + WIDTH + 20, MARGIN + 20 * i, 12, 12, COLOURS[i]))
            parts.append(text(MARGIN + WIDTH + 38, MARGIN + 20 * i + 10, name, "start"))
        return drawing(2 * MARGIN + WIDTH + LEGEND, HEIGHT + 2 * MARGIN, parts)


def figure_of(page: str) -> Bars:
    """Lines where the table's first column is numbers, else bars; raises `ValueError` where there is no such table."""
    bars = Bars.read(page)
    return Lines.read(page) if all(re.fullmatch(r"\d+(\.\d+)?", group) for group in bars.groups) else bars


def drawing(width: int, height: int, parts: list[str]) -> str:
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
    parser.add_argument("page", type=existing_file)
    parser.add_argument("output", type=new_file)
    args = parser.parse_args()
    args.output.write_text(figure_of(args.page.read_text(encoding="utf-8")).svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
