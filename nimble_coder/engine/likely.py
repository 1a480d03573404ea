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
