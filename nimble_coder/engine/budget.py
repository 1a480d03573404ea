"""How many rows a step has: the drafts that are worth theirs, given what a step of so many rows takes here.

A step commits one token per sequence and each draft token that is accepted. Draft tokens join it, the likeliest of all
sequences first, for as long as the tokens expected per second grow. On a machine that waits for its weights the first
rows cost nothing, so that even unsure drafts go; with many sequences a step computes already, and only sure ones do.
A prompt in the step changes nothing of that: beside it a row looks cheap, but a token is worth what it takes in the
steps that it saves, which have no prompt.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from time import perf_counter

from nimble_coder.engine.tree import SURE, TokenTree

ROWS_ON_CPU = (1, 2, 4, 6, 8, 12, 16, 24)
ROWS_ON_GPU = (1, 2, 4, 8, 16, 32)
"""Of the steps that are timed when an engine is loaded; between them and beyond, lines. The compiled step multiplies
six rows at a time (`matrix.h`): up to 12 the rows beside 8 are nearly free, and those behind them are not."""
MOST_DRAFTED = 64
"""Draft tokens that are thought of per step, shared by the sequences: more are not worth their rows on any CPU, and on
a GPU hardly any are."""
REPEATS = 5
"""The least time counts: another process can only make it longer. Of three the curve differs more from load to load: on
two shared cores the worst of twelve loads made chats 3 % slower than the worst with five (replayed)."""
FEWEST_REPEATS, LONGEST = 2, 1.2
"""A large model's steps take long, and its start waits: behind so many seconds no round begins but the second."""
MARGIN = 1.2
"""How much more a row has to bring than it costs. Of many counts of rows the one that looks best is often one whose
time was measured too short; and a sequence that gets ahead of the others ends sooner, which leaves the last ones to
share a step among fewer. Replayed on chats, 1.1 to 1.6 are better than 1.0 from eight at once on, by up to 2 %; alone
they differ by less than 1 %, and edits lose 1 % or 2."""
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
        rounds: list[list[float]] = []  # all rows in turn: what disturbs for long disturbs all of them
        started = perf_counter()
        while len(rounds) < FEWEST_REPEATS or (len(rounds) < REPEATS and perf_counter() < started + LONGEST):
            rounds.append([seconds_of(count) for count in rows])
        return cls(dict(zip(rows, map(min, *rounds), strict=True)))

    def of(self, rows: float) -> float:
        """The seconds of a step of so many rows."""
        right, share = self._between(rows)
        left = self._point(right - 1)
        return left + share * max(self._point(right) - left, 0.0)

    def rows_within(self, seconds: float) -> float:
        """How many rows a step of so many seconds has, beyond the measured ones as well; infinite where they cost
        nothing, and 0 where not even the measured ones fit."""
        last, before = self._rows[-1], self._rows[-2]
        spare, a_row = seconds - self.of(last), (self.of(last) - self.of(before)) / (last - before)
        if spare < 0:
            return 0.0
        return last + spare / a_row if a_row else math.inf

    def observe(self, rows: int, seconds: float) -> None:
        """Takes in the time of a step that only decoded."""
        if not 1 <= rows <= self._rows[-1]:
            return
        right, share = self._between(rows)
        ratio = math.log(seconds / self.of(rows))
        if self._level is None:
            self._level = ratio
        off = ratio - self._level
        self._level += SPREAD * off
        self._bend = [FORGOTTEN * bend for bend in self._bend]
        self._bend[right - 1] += LEARNED * off * (1 - share)
        self._bend[right] += LEARNED * off * share

    def _between(self, rows: float) -> tuple[int, float]:
        """The measured point to the right of so many rows, and how far they are on the way to it from that before."""
        points = self._rows
        right = min(max(bisect_right(points, rows), 1), len(points) - 1)
        return right, (rows - points[right - 1]) / (points[right] - points[right - 1])

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
        """The trees of a step without the nodes that would slow it down, and with the extra drafts that are worth their
        rows; `other_rows` are computed in any case.

        Nodes that are `SURE` stay, and a node's parent stays with it.
        """
        kept = self._cut(trees, other_rows)
        self._widen(kept, other_rows)
        return kept

    def _widen(self, trees: Sequence[TokenTree], other_rows: int) -> None:
        """Adds extra drafts, those that promise most first."""
        offers = sorted(
            ((tree.extra.tokens, tree.extra.rows, which) for which, tree in enumerate(trees) if tree.extra),
            key=lambda offer: -offer[0],
        )
        if not offers:
            return
        sure = sum(1.0 + sum(likely for likely in tree.likelihoods if likely < SURE) for tree in trees)
        tokens = list(accumulate((each for each, _, _ in offers), initial=sure))
        rows = list(accumulate((each for _, each, _ in offers), initial=sum(map(len, trees))))
        rate = max(each / self.costs.of(count) for each, count in zip(tokens, rows, strict=True))
        gains = [
            each - MARGIN * rate * self.costs.of(count + other_rows) for each, count in zip(tokens, rows, strict=True)
        ]
        for _, _, which in offers[: gains.index(max(gains))]:
            trees[which].widen()

    def _cut(self, trees: Sequence[TokenTree], other_rows: int) -> list[TokenTree]:
        """The trees without the nodes that are not worth their rows."""
        candidates = [
            (-likelihood, which, node)
            for which, tree in enumerate(trees)
            for node, likelihood in enumerate(tree.likelihoods)
            if likelihood < SURE
        ]
        if not candidates:
            return list(trees)
        candidates.sort()  # a parent is no less likely than its child, and comes before it
        rows = sum(map(len, trees)) - len(candidates)
        expected = list(accumulate((-unlikelihood for unlikelihood, _, _ in candidates), initial=float(len(trees))))
        rate = max(tokens / self.costs.of(rows + count) for count, tokens in enumerate(expected))
        rows += other_rows
        gains = [tokens - MARGIN * rate * self.costs.of(rows + count) for count, tokens in enumerate(expected)]
        taken = gains.index(max(gains))
        if taken == len(candidates):
            return list(trees)
        left_out: list[set[int]] = [set() for _ in trees]
        for _, which, node in candidates[taken:]:
            left_out[which].add(node)
        return [
            tree.keep([node for node in range(len(tree)) if node not in missing]) if missing else tree
            for tree, missing in zip(trees, left_out, strict=True)
        ]
