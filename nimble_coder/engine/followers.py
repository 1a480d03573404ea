"""What follows a token, or two, in code and prose at large: drafts where a request's own text has none.

Tables for the tokenizer of Qwen2.5-Coder, which all of its sizes share. `training/followers.py` has counted them; they
hold no text, only which tokens follow one or two others most, and how often. What follows one token is told for several
languages each by itself, what follows two for all of them together. A guess never changes an output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nimble_coder.engine.infill import InfillMarks
from nimble_coder.engine.likely import Floats

FILE = Path(__file__).parent / "followers.npz"
MOST, MOST_OF_TWO = 6, 4
"""Followers of a token that are kept, and of two."""
MARKS = InfillMarks(prefix=151659, suffix=151661, middle=151660)
"""By which the tokenizer is known: those of Qwen2.5-Coder's `tokenizer.json`."""
BITS = 18
"""Of a token's id in a number that stands for several."""
UNKNOWN = 0.02
"""The share of a follower that the table does not have."""
MEMORY = 0.9
"""How much of what a token told of the text's language the next one leaves."""
READ = 64
"""Tokens of a prompt's end that tell it at first."""
TRUST = 0.7
"""How much of a guess is by two tokens, where they are known; the rest is by the last one."""


Ids = TypeVar("Ids", int, NDArray[np.int64])


@dataclass(frozen=True)
class Followers:
    """For each token its followers and their shares by language; for two tokens theirs."""

    rows: NDArray[np.int32]
    """By token: its row in the next two, or -1."""
    following: NDArray[np.int32]
    """`[rows, MOST]`; -1 where there are fewer."""
    shares: Floats
    """`[rows, MOST, languages]`"""
    pairs: NDArray[np.int64]
    """Two tokens as one number (`pair`), sorted; in this order they have a row in the next two."""
    following_two: NDArray[np.int32]
    """`[pairs, MOST_OF_TWO]`; -1 where there are fewer."""
    shares_of_two: Floats
    """`[pairs, MOST_OF_TWO]`"""

    @classmethod
    def among(cls, control: Mapping[str, int]) -> "Followers | None":
        """By the ids of all control tokens; None where they are of another tokenizer than the tables'."""
        return followers() if InfillMarks.among(control) == MARKS else None

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> "Followers":
        """As `FILE` holds them."""
        tokens = arrays["tokens"].astype(np.int32)
        rows = np.full(int(tokens.max(initial=-1)) + 1, -1, np.int32)
        rows[tokens] = np.arange(len(tokens), dtype=np.int32)
        return cls(
            rows,
            arrays["following"].astype(np.int32),
            arrays["shares"] / np.float32(255),
            pair(arrays["first"].astype(np.int64), arrays["second"].astype(np.int64)),
            arrays["following_two"].astype(np.int32),
            arrays["shares_of_two"] / np.float32(255),
        )

    def row(self, token: int) -> int:
        """-1 where there is none."""
        return int(self.rows[token]) if 0 <= token < len(self.rows) else -1

    def row_of_two(self, before: int, token: int) -> int:
        """-1 where there is none."""
        place = int(self.pairs.searchsorted(key := pair(before, token)))
        return place if before >= 0 and place < len(self.pairs) and self.pairs[place] == key else -1


def pair(before: Ids, token: Ids) -> Ids:
    """Two tokens as one number."""
    return (before << BITS) | token


@cache
def followers() -> Followers:
    """Read from the package, once."""
    with np.load(FILE) as arrays:
        return Followers.of(arrays)


class Guesses:
    """What may follow in one request: the tables' shares, by how well each language has foretold its text."""

    def __init__(self, followers: Followers, prompt: Sequence[int]) -> None:
        self._followers = followers
        self._scores = np.zeros(followers.shares.shape[2], np.float32)
        """The logarithms of the languages' likelihoods, but for a common term."""
        self._last = -1
        self.extend(prompt[-READ:])

    def extend(self, tokens: Sequence[int]) -> None:
        """Takes in what the text goes on with."""
        table = self._followers
        for token in tokens:
            if (row := table.row(self._last)) >= 0:
                found = np.flatnonzero(table.following[row] == token)
                shares = table.shares[row, found[0]] if len(found) else np.float32(0)
                self._scores = MEMORY * self._scores + np.log(np.maximum(shares, UNKNOWN))
            self._last = token
        weights = np.exp(self._scores - self._scores.max())
        self._weights = weights / weights.sum()

    def behind(self, before: int, token: int) -> dict[int, float]:
        """What may follow a token that stands behind another, which is -1 where there is none, and how likely."""
        table, row, row_of_two = self._followers, self._followers.row(token), self._followers.row_of_two(before, token)
        trust = TRUST if row_of_two >= 0 else 0.0
        found: dict[int, float] = {}
        if row >= 0:
            shares = table.shares[row] @ (self._weights * (1 - trust))
            found = {t: s for t, s in zip(table.following[row].tolist(), shares.tolist(), strict=True) if s > 0}
        if trust:
            shares = table.shares_of_two[row_of_two] * trust
            for follower, share in zip(table.following_two[row_of_two].tolist(), shares.tolist(), strict=True):
                if share > 0:
                    found[follower] = found.get(follower, 0.0) + share
        return found
