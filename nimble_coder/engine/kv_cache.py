"""The KV cache: one contiguous slot a sequence, sized when the engine loads, kept for prompts that begin alike."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engine.checkpoint import ModelShape

Tokens = NDArray[np.int64]
NOTHING: Tokens = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Move:
    """Entries of a slot that belong further forward: accepted drafts, in ascending order."""

    slot: int
    sources: list[int]
    target: int
    """Where the first of them goes; the others follow it."""


@dataclass
class Slot:
    """Whose entries a slot holds, and what they are worth."""

    tokens: Tokens
    """The tokens of its entries; for a sequence that runs, those of its prompt that are computed."""
    in_use: bool = False
    worth: int = 0
    """Entries that had to be computed again, above the worth of what was given up when they were last used."""
    last_used: int = 0


class KVCache:
    """Keys and values of all layers, `[layers, slots, kv_heads, capacity, head_dim]` in the model's dtype or in 8 bits.

    Memory is claimed by the slots' first use (the operating system maps pages when they are touched), and never
    beyond `bytes`. A slot keeps its entries after its sequence has ended: a keystroke repeats the last prompt almost
    whole, and what it shares need not be computed again.

    Which slot is given up goes by its length and its age, as in GreedyDual-Size (Cao and Irani, USENIX 1997): by age
    alone, a few short prompts would drop a long one that took minutes to read.
    """

    def __init__(
        self, keys: Any, values: Any, reuse: bool = True, defer_moves: bool = False, scales: tuple[Any, ...] = ()
    ) -> None:
        """`keys` and `values` are arrays of NumPy's or PyTorch's of `cache_size`, of which nothing has to be set.

        `scales`: of keys and of values in 8 bits, fp32 `[layers, slots, kv_heads, capacity]` each. Such keys have
        `FINE` bytes more.
        """
        self.keys, self.values, self.scales = keys, values, scales
        self.capacity: int = keys.shape[3]
        self._reuse = reuse
        self._moves: list[Move] | None = [] if defer_moves else None
        """Moves that the next step makes first, where the model takes them: a GPU makes them in its graph."""
        self._slots = [Slot(NOTHING) for _ in range(keys.shape[1])]
        self._clock = 0
        self._given_up = 0
        """The worth of what was given up last: what is not used again is overtaken by it."""

    @property
    def free_slots(self) -> int:
        return sum(not slot.in_use for slot in self._slots)

    def acquire(self, prompt: list[int]) -> tuple[int, int]:
        """A free slot (there must be one) and how many of the prompt's first tokens it already holds.

        The prompt's last token is never among them: its logits are wanted. Entries that a running sequence, or a free
        slot worth keeping, has in common with the prompt are copied; otherwise the slot that is worth least is taken.
        """
        wanted = np.array(prompt, np.int64)
        shared = [common_prefix(slot.tokens, wanted[:-1]) if self._reuse else 0 for slot in self._slots]
        free = [index for index, slot in enumerate(self._slots) if not slot.in_use]
        best = max(range(len(shared)), key=lambda index: (shared[index], not self._slots[index].in_use))
        cheapest = min(free, key=lambda index: (self._slots[index].worth, self._slots[index].last_used))
        # A slot is taken over where the prompt continues it, and left alone where it only begins alike.
        takes_over = not self._slots[best].in_use and 2 * shared[best] >= len(self._slots[best].tokens)
        target = best if shared[best] and takes_over else cheapest
        if target != best or not shared[best]:
            self._given_up = self._slots[target].worth
        if target != best and shared[best]:
            for move in self.take_moves():
                self._move(move)
            for tensor in (self.keys, self.values, *self.scales):
                tensor[:, target, :, : shared[best]] = tensor[:, best, :, : shared[best]]
        self._slots[target] = Slot(wanted[: shared[best]], in_use=True)
        return target, shared[best]

    def hold(self, slot: int, tokens: list[int]) -> None:
        """Says which tokens a slot's first entries are of, so that other prompts may share them."""
        self._slots[slot].tokens = np.array(tokens, np.int64)

    def release(self, slot: int) -> None:
        """Ends a sequence's use of its slot; the entries it holds stay until the slot is needed."""
        self._clock += 1
        kept = self._slots[slot]
        kept.in_use, kept.last_used = False, self._clock
        kept.worth = self._given_up + len(kept.tokens)

    def keep(self, slot: int, start: int, nodes: list[int]) -> None:
        """After a step whose tree was written at `start`: moves the entries of `nodes` right behind the root's.

        An entry was computed at its true position with exactly its true ancestors visible, so it is valid as it is.
        """
        if nodes == list(range(1, len(nodes) + 1)):
            return
        move = Move(slot, [start + node for node in nodes], start + 1)
        if self._moves is None:
            self._move(move)
        else:
            self._moves.append(move)

    def take_moves(self) -> list[Move]:
        """The moves that are due before anything else is written; who takes them makes them."""
        if not self._moves:
            return []
        taken, self._moves = self._moves, []
        return taken

    def _move(self, move: Move) -> None:
        target = slice(move.target, move.target + len(move.sources))
        for each in (self.keys, self.values, *self.scales):
            entries = each[:, move.slot]  # apart from the list: NumPy takes an integer beside one for another list
            entries[:, :, target] = entries[:, :, move.sources]


def cache_size(shape: ModelShape, slots: int, capacity: int) -> tuple[int, ...]:
    """`[layers, slots, kv_heads, capacity, head_dim]`, of keys and of values."""
    return shape.num_hidden_layers, slots, shape.num_key_value_heads, capacity, shape.head_dim


def common_prefix(one: Tokens, other: Tokens) -> int:
    """How many first tokens are the same."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length
