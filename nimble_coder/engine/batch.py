"""What a step computes: the tokens of many sequences side by side, and what each of them sees."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nimble_coder.engine.tree import TokenTree

Int64s = NDArray[np.int64]
CAUSAL = -1


class Segment(NamedTuple):
    """One sequence's part of a step."""

    slot: int
    """Its place in the KV cache."""
    cached: int
    """Entries already in the slot, all visible to every token of the segment."""
    first_row: int
    rows: int
    visible: int
    """Where in the batch's bit sets its rows' begin, `words(rows)` each; `CAUSAL`: a row sees those before it."""


@dataclass(frozen=True)
class Batch:
    """The tokens of one step, all sequences concatenated."""

    tokens: Int64s
    """`[rows]`"""
    positions: Int64s
    """`[rows]`"""
    segments: Int64s
    """`[sequences, 5]`, the fields of `Segment`"""
    visible: NDArray[np.uint64]
    """Bit sets: bit n of a row's words is set where it sees the n-th row of its segment."""
    wanted: Int64s
    """The rows whose choices are wanted."""
    wants_logits: bool
    """The wanted rows' logits, too."""

    def __iter__(self) -> Iterator[Segment]:
        return map(Segment._make, self.segments.tolist())

    def seen(self, segment: Segment) -> NDArray[np.bool_]:
        """`[rows, rows]`: which rows of its own each row of a segment sees."""
        size = segment.rows
        if segment.visible == CAUSAL:
            return np.tri(size, dtype=np.bool_)
        bits = self.visible[segment.visible : segment.visible + size * words(size)]
        octets = bits.view(np.uint8).reshape(size, -1)
        return np.unpackbits(octets, axis=1, count=size, bitorder="little").astype(np.bool_)


def words(rows: int) -> int:
    """64-bit words that a bit set over `rows` takes."""
    return (rows + 63) // 64


class BatchBuilder:
    """Collects the segments of a step."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._positions: list[int] = []
        self._segments: list[Segment] = []
        self._visible: list[bytes] = []
        self._words = 0
        self._wanted: list[int] = []

    def add_tree(self, slot: int, cached: int, tree: TokenTree) -> int:
        """Adds a tree of draft tokens, all of whose nodes' choices are wanted; returns how many those are."""
        first, size = len(self._tokens), len(tree)
        self._tokens += tree.tokens
        self._positions += [cached + depth for depth in tree.depths]
        if size == 1:
            self._segments.append(Segment(slot, cached, first, 1, CAUSAL))
        else:
            self._segments.append(Segment(slot, cached, first, size, self._words))
            self._visible += [seen.to_bytes(8 * words(size), "little") for seen in tree.visible]
            self._words += size * words(size)
        self._wanted += range(first, first + size)
        return size

    def add_chunk(self, slot: int, cached: int, tokens: list[int], is_last: bool, wants_all: bool = False) -> int:
        """Adds a chunk of a prompt; only its last choice is wanted, and only where it ends the prompt, or all are."""
        first = len(self._tokens)
        self._tokens += tokens
        self._positions += range(cached, cached + len(tokens))
        self._segments.append(Segment(slot, cached, first, len(tokens), CAUSAL))
        wanted = len(tokens) if wants_all else int(is_last)
        self._wanted += range(len(self._tokens) - wanted, len(self._tokens))
        return wanted

    def build(self, wants_logits: bool) -> Batch:
        """The batch of everything that was added."""
        return Batch(
            np.array(self._tokens, np.int64),
            np.array(self._positions, np.int64),
            np.array(self._segments, np.int64),
            np.frombuffer(b"".join(self._visible), np.uint64),
            np.array(self._wanted, np.int64),
            wants_logits,
        )
