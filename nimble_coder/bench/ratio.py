"""What was measured again and again, one thing over another: the middle of the ratios, and how far they lie apart."""

import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Ratio:
    """Of two rates, each pair measured side by side."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, found: Sequence[float]) -> "Ratio":
        """Raises `statistics.StatisticsError` where there is none."""
        return cls(round(statistics.median(found), 3), round(min(found), 3), round(max(found), 3))

    @property
    def cells(self) -> list[str]:
        """For the columns `median`, `least` and `most` of a table."""
        return [f"{each:.2f}x" for each in astuple(self)]

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.least:.2f}-{self.most:.2f})"
