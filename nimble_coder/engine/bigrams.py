"""What follows a token in code and prose at large: drafts where a request's own text has none.

A table for the tokenizer of Qwen2.5-Coder, which all of its sizes share. `training/bigrams.py` has counted it, in
several languages each by itself; it holds no text, only which tokens follow a token most, and how often. A guess never
changes an output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nimble_coder.engine.infill import InfillMarks
from nimble_coder.engine.likely import Floats

FILE = Path(__file__).parent / "bigrams.npz"
MOST = 6
"""Followers of a token that are kept."""
MARKS = InfillMarks(prefix=151659, suffix=151661, middle=151660)
"""By which the tokenizer is known: those of Qwen2.5-Coder's `tokenizer.json`."""
UNKNOWN = 0.02
"""The share of a follower that the table does not have."""
MEMORY = 0.9
"""How much of what a token told of the text's language the next one leaves."""
READ = 64
"""Tokens of a prompt's end that tell it at first."""


@dataclass(frozen=True)
class Bigrams:
    """For each token its followers, and their shares by language."""

    rows: NDArray[np.int32]
    """By token: its row in the others, or -1."""
    following: NDArray[np.int32]
    """`[rows, MOST]`; -1 where there are fewer."""
    shares: Floats
    """`[rows, MOST, languages]`"""

    @classmethod
    def among(cls, control: Mapping[str, int]) -> "Bigrams | None":
        """By the ids of all control tokens; None where they are of another tokenizer than the table's."""
        return bigrams() if InfillMarks.among(control) == MARKS else None

    def row(self, token: int) -> int:
        """-1 where there is none."""
        return int(self.rows[token]) if 0 <= token < len(self.rows) else -1


@cache
def bigrams() -> Bigrams:
    """Read from the package, once."""
    with np.load(FILE) as arrays:
        tokens, following, shares = (arrays[name] for name in ("tokens", "following", "shares"))
    rows = np.full(int(tokens[-1]) + 1, -1, np.int32)
    rows[tokens] = np.arange(len(tokens), dtype=np.int32)
    return Bigrams(rows, following, shares / np.float32(255))


class Guesses:
    """What may follow a token in one request: the table's shares, by how well each language has foretold its text."""

    def __init__(self, bigrams: Bigrams, prompt: Sequence[int]) -> None:
        self._bigrams = bigrams
        self._scores = np.zeros(bigrams.shares.shape[2], np.float32)
        """The logarithms of the languages' likelihoods, but for a common term."""
        self._last = -1
        self.extend(prompt[-READ:])

    def extend(self, tokens: Sequence[int]) -> None:
        """Takes in what the text goes on with."""
        table = self._bigrams
        for token in tokens:
            if (row := table.row(self._last)) >= 0:
                found = np.flatnonzero(table.following[row] == token)
                shares = table.shares[row, found[0]] if len(found) else np.float32(0)
                self._scores = MEMORY * self._scores + np.log(np.maximum(shares, UNKNOWN))
            self._last = token
        weights = np.exp(self._scores - self._scores.max())
        self._weights = weights / weights.sum()

    def behind(self, token: int) -> list[tuple[int, float]]:
        """What may follow a token, and how likely."""
        row = self._bigrams.row(token)
        if row < 0:
            return []
        shares = self._bigrams.shares[row] @ self._weights
        return [
            pair for pair in zip(self._bigrams.following[row].tolist(), shares.tolist(), strict=True) if pair[1] > 0
        ]
