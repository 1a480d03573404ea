"""How many rows a step has: the drafts that are worth theirs, given what a step of so many rows takes here.

A step commits one token per sequence and each draft token that is accepted. Draft tokens join it, the likeliest of all
sequences first, for as long as the tokens expected per second grow. On a machine that waits for its weights the first
rows cost nothing, so that even unsure drafts go; with many sequences a step computes already, and only sure ones do.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from nimble_coder.engine.tree import SURE, TokenTree

ROWS_ON_CPU = (1, 2, 4, 8, 16)
ROWS_ON_GPU = (1, 2, 4, 8, 16, 32)
"""Of the steps that are timed when an engine is loaded; between them and beyond, lines."""
MOST_DRAFTED = 64
"""Draft tokens that are thought of per step, shared by the sequences: more are not worth their rows on any CPU, and on
a GPU hardly any are."""
REPEATS = 3
"""The least time counts: another process can only make it longer."""
LEARNED, SPREAD, FORGOTTEN = 0.05, 0.1, 0.999
"""How much a step's time says of the curve at its rows, and of its height; and how much of that the next step leaves
at other rows."""


class StepCosts:
    """Seconds that a step takes by its rows: a curve through measured points, whose shape follows what is seen.

    Only ratios matter, so a machine that becomes slower at all rows changes nothing.
    """

    def __init__(self, seconds: Mapping[float, float]) -> None:
        """Measured seconds by rows, two points at least; means of rows need not be whole. One that another process
        disturbed is brought back between what fewer rows take and what as many steps of fewer would: where a curve is
        too high, it is never tried.
        """
        self._rows = sorted(seconds)
        self._base = [seconds[self._rows[0]]]
        for before, rows in pairwise(self._rows):
            least = self._base[-1]
            self._base.append(min(max(seconds[rows], least), least * rows / before))
        self._bend = [0.0] * len(self._rows)
        """Per point, the logarithm of how much more it takes than was measured, in comparison with the others."""
        self._level: float | None = None
        """The logarithm of how much slower than measured the machine is now."""

    @classmethod
    def measure(cls, seconds_of: Callable[[int], float], rows: Sequence[int] = ROWS_ON_CPU) -> "StepCosts":
        """Times steps; `seconds_of` runs one of so many rows."""
        seconds_of(rows[-1])  # the first one pays for allocations
        return cls({count: min(seconds_of(count) for _ in range(REPEATS)) for count in rows})

    def of(self, rows: float) -> float:
        """The seconds of a step of so many rows."""
        points = self._rows
        right = min(max(bisect_right(points, rows), 1), len(points) - 1)
        left = right - 1
        share = (rows - points[left]) / (points[right] - points[left])
        return self._point(left) + share * max(self._point(right) - self._point(left), 0.0)

    def observe(self, rows: int, seconds: float) -> None:
        """Takes in the time of a step that only decoded."""
        if not 1 <= rows <= self._rows[-1]:
            return
        nearest = min(range(len(self._rows)), key=lambda i: abs(self._rows[i] - rows))
        ratio = math.log(seconds / self.of(rows))
        if self._level is None:
            self._level = ratio
        off = ratio - self._level
        self._level += SPREAD * off
        self._bend = [FORGOTTEN * bend for bend in self._bend]
        self._bend[nearest] += LEARNED * off

    def _point(self, index: int) -> float:
        return self._base[index] * math.exp(self._bend[index])


def most_drafted(sequences: int) -> int:
    """How many draft tokens each of so many sequences thinks of."""
    return max(1, MOST_DRAFTED // max(sequences, 1))


class Budget:
    """Cuts a step's trees to what is worth its rows."""

    def __init__(self, costs: StepCosts) -> None:
        self.costs = costs

    def cut(self, trees: Sequence[TokenTree], other_rows: int = 0) -> list[TokenTree]:
        """The trees of a step without the nodes that would slow it down; `other_rows` are computed in any case.

        Nodes that are `SURE` stay, and a node's parent stays with it.
        """
        candidates = [
            (-likelihood, which, node)
            for which, tree in enumerate(trees)
            for node, likelihood in enumerate(tree.likelihoods)
            if likelihood < SURE
        ]
        if not candidates:
            return list(trees)
        candidates.sort()  # a parent is no less likely than its child, and comes before it
        rows = other_rows + sum(map(len, trees)) - len(candidates)
        expected, best, taken = float(len(trees)), len(trees) / self.costs.of(rows), 0
        for count, (unlikelihood, _, _) in enumerate(candidates, start=1):
            expected -= unlikelihood
            speed = expected / self.costs.of(rows + count)
            if speed >= best:
                best, taken = speed, count
        if taken == len(candidates):
            return list(trees)
        left_out: list[set[int]] = [set() for _ in trees]
        for _, which, node in candidates[taken:]:
            left_out[which].add(node)
        return [
            tree.keep([node for node in range(len(tree)) if node not in missing]) if missing else tree
            for tree, missing in zip(trees, left_out, strict=True)
        ]
