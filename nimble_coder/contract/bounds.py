"""What a number in a request may be, for the engine and for the gateway in front of it."""

from math import inf
from typing import NamedTuple

GREEDY_BELOW = 1e-3
"""Temperatures below this choose greedily: a token whose logit is 0.02 less than the best one's would have less than
e^-20 of its probability, and 1e-40, dividing by which gives infinity, is below it. 0.01, which Continue sends, is not:
there a gap of 0.02 still leaves e^-2."""

GREEDY_SHARE = 1e-6
"""A top-p below this leaves the most likely token alone: of any vocabulary we know it has at least this share."""


class Bounds(NamedTuple):
    """What a number may be, for the engine and for the gateway in front of it."""

    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.least:g} or more" if self.most == inf else f"{self.least:g} to {self.most:g}"

    def hold(self, value: float) -> bool:
        """As FP32, a bound may be a little less than it is; NaN is within none."""
        return self.least - 1e-6 * abs(self.least) <= value <= self.most


# With these no logit becomes infinite.
TEMPERATURE, SHARE, FACTOR, PENALTY = Bounds(0, 1000), Bounds(0, 1), Bounds(0.01, 100), Bounds(-100, 100)
BIAS = Bounds(-100, 100)
COUNT, FLAG = Bounds(0, inf), Bounds(0, 1)
MOST_TOP = 20
"""Tokens whose log probabilities one place can have: OpenAI's limit of a chat."""
MOST_DRAFTS = 32
"""Draft tokens per step by matching suffixes."""
