"""A step's plan: everything its kernels must know, as one block of 32-bit integers that one copy brings to the GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from nimble_coder.engine.batch import CAUSAL, Batch, Segment, words
from nimble_coder.engine.kv_cache import Move

Int32s = NDArray[np.int32]
ALIGNMENT = 4
"""Integers: sections begin at 16 bytes, so that kernels are compiled for one alignment."""
BLOCK_FIELDS = 8
"""Of a block of rows: its first row, rows, slot, cached entries, offset in its segment, the segment's rows, where its
segment's bit sets begin (-1: causal), and 64-bit words of each."""
MOVER_FIELDS = 3
"""Of a sequence whose entries move: its slot, first move, and number of moves."""


@dataclass(frozen=True)
class Layout:
    """How much a plan holds, and where. A graph is recorded for one layout."""

    rows: int
    sequences: int
    """The most that take part."""
    tree_rows: int
    """The most rows of a sequence that have bit sets: a tree's, not a prompt's."""
    longest_path: int
    """The most entries that a sequence may have to move."""
    rows_per_block: int

    @property
    def blocks(self) -> int:
        return min(self.rows, -(-self.rows // self.rows_per_block) + self.sequences)

    @cached_property
    def sections(self) -> dict[str, slice]:
        """Each section's place in the plan."""
        sizes = {
            "tokens": self.rows,
            "positions": self.rows,
            "places": self.rows,
            "slots": self.rows,
            "wanted": self.rows,
            "blocks": self.blocks * BLOCK_FIELDS,
            "movers": self.sequences * MOVER_FIELDS,
            "moves": self.sequences * self.longest_path * 2,
            "visible": 2 * self.rows * words(min(self.rows, self.tree_rows)),
        }
        found, start = {}, 0
        for name, size in sizes.items():
            found[name] = slice(start, start + size)
            start += -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
        return found

    @property
    def size(self) -> int:
        """Integers in a plan."""
        end = int(self.sections["visible"].stop)
        return -(-max(end, 1) // ALIGNMENT) * ALIGNMENT

    def views(self, plan: torch.Tensor) -> dict[str, torch.Tensor]:
        """The sections of a plan, `[size]` int32; the bit sets as int64."""
        found = {name: plan[where] for name, where in self.sections.items()}
        return found | {"visible": found["visible"].view(torch.int64)}


class Plan:
    """A plan in memory of the host, `[layout.size]` int32, written anew for each step."""

    def __init__(self, layout: Layout, memory: Int32s) -> None:
        self._layout = layout
        parts = {name: memory[where] for name, where in layout.sections.items()}
        self._tokens, self._positions = parts["tokens"], parts["positions"]
        self._places, self._slots = parts["places"], parts["slots"]
        self._wanted = parts["wanted"]
        self._blocks = parts["blocks"].reshape(-1, BLOCK_FIELDS)
        self._movers = parts["movers"].reshape(-1, MOVER_FIELDS)
        self._moves = parts["moves"].reshape(-1, 2)
        self._visible = parts["visible"].view(np.uint64)
        memory[:] = 0
        self._places[:] = -1
        self._rows = self._used_blocks = self._used_movers = 0

    def fill(self, batch: Batch, moves: Sequence[Move]) -> None:
        """Writes a step. Rows, blocks and movers that are left over do nothing."""
        rows = len(batch.tokens)
        self._tokens[:rows] = batch.tokens
        self._positions[:rows] = batch.positions
        self._wanted[: max(rows, self._rows)] = 0
        self._wanted[batch.wanted] = 1
        if len(batch.visible):
            self._visible[: len(batch.visible)] = batch.visible
        used = 0
        for segment in batch:
            used = self._add(segment, used)
        # What an earlier step wrote beyond this one must not be done again; tokens and positions are harmless.
        self._places[rows : self._rows] = -1
        self._blocks[used : self._used_blocks] = 0
        self._movers[len(moves) : self._used_movers] = 0
        self._rows, self._used_blocks, self._used_movers = rows, used, len(moves)
        self._add_moves(moves)

    def _add(self, segment: Segment, used: int) -> int:
        """Adds a segment's blocks behind the `used` ones; returns how many there are then."""
        first, size, each = segment.first_row, segment.rows, self._layout.rows_per_block
        causal = segment.visible == CAUSAL
        bits, stride = (-1, 0) if causal else (segment.visible, words(size))
        if size == 1:
            self._slots[first] = segment.slot
            self._places[first] = segment.cached
            self._blocks[used] = (first, 1, segment.slot, segment.cached, 0, 1, bits, stride)
            return used + 1
        offsets = np.arange(0, size, each)
        self._slots[first : first + size] = segment.slot
        self._places[first : first + size] = np.arange(segment.cached, segment.cached + size)
        blocks = self._blocks[used : used + len(offsets)]
        blocks[:] = (first, each, segment.slot, segment.cached, 0, size, bits, stride)
        blocks[:, 0] += offsets
        blocks[:, 4] = offsets
        blocks[-1, 1] = size - offsets[-1]
        return used + len(offsets)

    def _add_moves(self, moves: Sequence[Move]) -> None:
        done = 0
        for mover, move in zip(self._movers, moves, strict=False):
            count = len(move.sources)
            mover[:] = (move.slot, done, count)
            self._moves[done : done + count, 0] = move.sources
            self._moves[done : done + count, 1] = range(move.target, move.target + count)
            done += count
