"""Which (w,n,g) is worth a measurement: a search for the fastest that measures few, led by the cost model."""

from collections.abc import Mapping
from math import log

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.engine.budget import StepCosts
from nimble_coder.planning.cost_model import Gain

SHARE = 0.25
"""Of the candidates, those that are measured."""
LEAST = 5
"""Plain decoding, the largest and one between them say what steps cost; two more are the model's favourites."""


def screened(candidates: int) -> int:
    """How many of so many candidates are measured."""
    return min(candidates, max(LEAST, round(SHARE * candidates)))


class Screen:
    """The candidates under one load. Replays say what they gain (`planning.replay`); the speeds of those that were
    measured so far say what steps cost: each of them, what one of its rows takes."""

    def __init__(self, gains: Mapping[LookaheadConfig, Gain], most: int) -> None:
        """Measures at most so many of the candidates, of which plain decoding is one."""
        self._gains = gains
        self._most = most
        self._seconds: dict[LookaheadConfig, float] = {}
        """Of a step, by what was measured."""

    def observe(self, config: LookaheadConfig, tokens_per_second: float) -> None:
        """Takes in a measurement."""
        self._seconds[config] = self._gains[config].tokens / tokens_per_second

    def next(self) -> LookaheadConfig | None:
        """What to measure next, None where enough was."""
        left = [config for config in self._gains if config not in self._seconds]
        if not left or len(self._seconds) >= self._most:
            return None
        if PLAIN in left:
            return PLAIN
        rows = {config: self._gains[config].rows for config in self._gains}
        largest = max(rows, key=lambda config: rows[config])
        if largest in left:
            return largest
        if len(self._seconds) == 2:
            middle = log(rows[largest]) / 2
            return min(left, key=lambda config: abs(log(rows[config]) - middle))
        return max(left, key=self.expected)

    def expected(self, config: LookaheadConfig) -> float:
        """Tokens per second, by the model; it needs measurements of two step sizes at least."""
        gain = self._gains[config]
        return gain.tokens / self._costs().of(gain.rows)

    def _costs(self) -> StepCosts:
        """Seconds by the rows of a sequence's step."""
        by_rows: dict[float, list[float]] = {}
        for config, seconds in self._seconds.items():
            by_rows.setdefault(self._gains[config].rows, []).append(seconds)
        return StepCosts({rows: sum(found) / len(found) for rows, found in by_rows.items()})
