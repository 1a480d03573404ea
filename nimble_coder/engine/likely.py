"""The most likely tokens behind a row of logits: what a cut leaves of 150,000 seldom is more than a few of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]

FEW = 1024
"""Tokens that are sorted at first. To sort all of 152k takes 15 ms, to find so many of them 0.08."""
GROUP = 32
"""Tokens of which the largest is looked at first."""
CLASSES, WIDEST = 4096, 64.0
"""Of tokens about equally likely, into which a row is put where a few tokens do not do; and how much less likely than
the best one, as a logarithm, those are that need no classes of their own: all of them together are never drawn."""


def most_likely(logits: Floats, few: int) -> Tokens:
    """At least `few` tokens of a row `[vocab_size]`, the most likely first, equal ones in order: none that is left out
    is as likely as the last of them.

    Of so many groups of tokens the largest are no less than the least of these largest, so that many tokens are.
    """
    groups = len(logits) // GROUP
    if few >= groups:
        return np.argsort(-logits, kind="stable").astype(np.int64, copy=False)
    largest = logits[: groups * GROUP].reshape(GROUP, groups).max(axis=0)
    least = np.partition(largest, groups - few)[groups - few]
    tokens = np.flatnonzero(logits >= least)
    return tokens[np.argsort(-logits[tokens], kind="stable")]


def log_softmax(logits: Floats) -> Floats:
    """Of a row `[vocab_size]`."""
    below: Floats = logits - logits.max()
    below -= np.log(np.exp(below).sum())
    return below


@dataclass(frozen=True)
class Likely:
    """The most likely tokens of one row."""

    logits: Floats
    """`[few]`, divided by the temperature, in descending order; only what they differ by counts."""
    tokens: Tokens
    """`[few]`"""
    total: float
    """The logarithm of the sum of all tokens' exponentials"""
    is_all: bool
    """Whether no token is less likely."""

    @classmethod
    def of(cls, logits: Floats, temperature: float, few: int) -> "Likely":
        """Of a row `[vocab_size]`, of which at least `few` are found; raises `ValueError` where none can be."""
        largest = logits.max()
        if not np.isfinite(largest):
            raise ValueError("no token is left to choose from")
        scaled = (logits - largest) * np.float32(1 / temperature)
        tokens = most_likely(scaled, few)
        return cls(scaled[tokens], tokens, float(np.log(np.exp(scaled).sum())), len(tokens) == len(scaled))


@dataclass(frozen=True)
class LikelyRows:
    """Of some rows, found together where the logits are: a draw from one of them does not wait for the device."""

    logits: Floats
    """`[rows, few]`, divided by the rows' temperatures"""
    tokens: Tokens
    """`[rows, few]`"""
    totals: Floats
    """`[rows]`"""
    is_all: bool

    def __getitem__(self, rows: slice) -> "LikelyRows":
        return LikelyRows(self.logits[rows], self.tokens[rows], self.totals[rows], self.is_all)

    def row(self, row: int) -> Likely:
        """Equal logits in the order of their tokens, which PyTorch's `topk` leaves open: it could differ by rows."""
        logits, tokens = self.logits[row], self.tokens[row]
        order = np.lexsort((tokens, -logits))
        return Likely(logits[order], tokens[order], float(self.totals[row]), self.is_all)


class Ranking:
    """All tokens of one row from the most likely to the least, equal ones in order, by their shares.

    For draws that the most likely ones do not settle, as at a high temperature. The tokens are only put into classes,
    and of those one or two are sorted: 152k tokens take 1.5 ms so, and 15 where all are sorted.
    """

    def __init__(self, logits: Floats, temperature: float) -> None:
        """Of a row `[vocab_size]`, at least one of them finite."""
        self._below = (logits.max() - logits) * np.float32(1 / temperature)
        widest = min(self._below[self._below < np.inf].max(), WIDEST)
        scale = np.float32(CLASSES / widest if widest else 1.0)
        self._classes = np.minimum(self._below * scale, CLASSES).astype(np.int32)
        self._weights = np.exp(-self._below)
        self._sums = np.bincount(self._classes, self._weights, CLASSES + 1).cumsum()

    @property
    def mass(self) -> float:
        """Of all tokens; that of the most likely one is 1."""
        return float(self._sums[-1])

    def of_first(self, count: int) -> float:
        """The mass of so many tokens."""
        counts = np.bincount(self._classes, minlength=CLASSES + 1).cumsum()
        number = int(np.searchsorted(counts, count))
        if number > CLASSES:  # there are fewer
            return self.mass
        _, sums = self._class(number)
        within = count - (counts[number - 1] if number else 0)
        return float(sums[min(within, len(sums)) - 1])

    def of_least(self, weight: float) -> float:
        """The mass of the tokens that have at least so much of the most likely one's."""
        return float(self._weights[self._weights >= weight].sum(dtype=np.float64))

    def reaching(self, mass: float) -> float:
        """The mass of the fewest tokens that have so much together."""
        _, sums = self._class(int(np.searchsorted(self._sums, mass)))
        return float(sums[min(int(np.searchsorted(sums, mass)), len(sums) - 1)])

    def token_at(self, mass: float) -> int:
        """The token at which the sum goes beyond `mass`, which is less than that of all."""
        tokens, sums = self._class(int(np.searchsorted(self._sums, mass, side="right")))
        return int(tokens[min(int(np.searchsorted(sums, mass, side="right")), len(tokens) - 1)])

    def _class(self, number: int) -> tuple[Tokens, NDArray[np.float64]]:
        """The tokens of a class that may be drawn, and the sums of the row's masses up to each."""
        number = min(number, int(np.searchsorted(self._sums, self._sums[-1])))  # behind it all is forbidden
        tokens = np.flatnonzero((self._classes == number) & (self._weights > 0))
        tokens = tokens[np.argsort(self._below[tokens], kind="stable")]
        before = self._sums[number - 1] if number else 0.0
        return tokens, before + self._weights[tokens].cumsum(dtype=np.float64)
