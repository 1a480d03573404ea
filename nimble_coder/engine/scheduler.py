"""Decides, step by step, which sequences run and which of their tokens: in-flight batching with chunked prefill."""

import logging
import time
from collections import deque
from dataclasses import dataclass

from nimble_coder.contract.response import FinishReason
from nimble_coder.engine.budget import Budget, most_drafted
from nimble_coder.engine.kv_cache import KVCache
from nimble_coder.engine.sequence import Sequence
from nimble_coder.engine.tree import TokenTree

logger = logging.getLogger(__name__)

SCORED_AT_ONCE = 32
"""Tokens of a prompt whose log probabilities are wanted: logits take 4 bytes a token of the vocabulary for each."""


LEAST_READ = 32
"""Tokens of prompts that a step has room for, however full it is. A token takes a CPU no longer among so many than
among 512."""
LONGEST_READ = 0.25
"""Seconds that the tokens of prompts take of a step, as far as its measured rows tell: streams wait for them."""
LEAST_SLOTS, CALLER_SECONDS = 4, 600.0
"""From so many slots on one is kept for who has none, where more than one has called in so many seconds."""


@dataclass(frozen=True)
class Prefill:
    """The next chunk of a prompt."""

    sequence: Sequence
    tokens: list[int]

    @property
    def is_last(self) -> bool:
        """True where the chunk ends the prompt, so that its last position gives the first token."""
        return self.sequence.cached + len(self.tokens) == self.sequence.prompt_length


@dataclass(frozen=True)
class Decode:
    """One sequence's part of a step: its newest token, and the drafts behind it."""

    sequence: Sequence
    tree: TokenTree


Work = Prefill | Decode


class Scheduler:
    """Sequences wait for a slot of the KV cache, and keep it until they finish.

    A free slot goes to the owner whose turn was longest ago, so that nobody waits for all that another has sent before;
    of one owner's sequences, and among owners that had none, to the one that has waited longest.
    The last one is for an owner that has none: others may have begun answers that take minutes.
    """

    def __init__(self, cache: KVCache, max_num_tokens: int, budget: Budget) -> None:
        self._cache = cache
        self._budget = budget
        self._max_num_tokens = max_num_tokens
        self._most_read = int(min(max_num_tokens, max(LEAST_READ, budget.costs.rows_within(LONGEST_READ))))
        """Tokens of prompts in a step."""
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._callers: dict[str, float] = {}
        """Owners, and when each added its last sequence, the last one at the end."""
        self._slots = cache.free_slots
        self._served: list[str] = []
        """Owners that wait and had a turn, the last one at the end."""

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Lets it wait for a slot."""
        self.waiting.append(sequence)
        if owner := sequence.request.owner:
            self._callers.pop(owner, None)
            self._callers[owner] = time.monotonic()

    def schedule(self) -> list[Work]:
        """The work of the next step: every decoding sequence, and prompt chunks for the tokens that are left over.

        At least one chunk moves on in every step, however full the batch is.
        """
        self._admit()
        decoding = [s for s in self.running if not s.is_prefill]
        most = most_drafted(len(decoding))
        unread = min(sum(s.unread for s in self.running if s.is_prefill), self._most_read)
        drafts = [(s, tree) for s in decoding if (tree := self._draft(s, most))]
        trees = self._budget.cut([tree for _, tree in drafts], unread)
        work: list[Work] = [Decode(s, tree) for (s, _), tree in zip(drafts, trees, strict=True)]
        spare = max(self._max_num_tokens - sum(map(len, trees)), LEAST_READ)
        return work + self._chunks(min(spare, self._most_read))

    def _draft(self, sequence: Sequence, most: int) -> TokenTree | None:
        """A sequence's input of the next step; None where its drafter fails, and it alone with it."""
        try:
            return sequence.draft(most)
        except Exception as error:
            logger.exception("request %d failed to draft", sequence.request_id)
            sequence.fail(error)
            return None

    def _chunks(self, budget: int) -> list[Prefill]:
        """Chunks of prompts, of so many tokens together: first of the prompt of which the fewest are left, but half of
        them are for the one that came first. So a short prompt does not wait for a long one to end, nor a long one for
        all the short ones that come behind it.
        """
        reading = [s for s in self.running if s.is_prefill]
        kept = min(budget // 2, at_once(reading[0])) if reading else 0
        chunks = []
        for sequence in sorted(reading, key=lambda s: s.unread):
            kept = 0 if sequence is reading[0] else kept
            if count := min(at_once(sequence), budget - kept):
                chunks.append(Prefill(sequence, sequence.tokens[sequence.cached : sequence.cached + count]))
                budget -= count
        return chunks

    def _admit(self) -> None:
        while (free := self._cache.free_slots) and (waiting := self._waiting(free)):
            sequence = self._next(waiting)
            self.waiting.remove(sequence)
            sequence.start(*self._cache.acquire([] if sequence.scores_prompt else sequence.tokens))
            self.running.append(sequence)

    def _waiting(self, free: int) -> list[Sequence]:
        """Those that may have one of so many free slots."""
        if free > 1 or not self._keeps_one():
            return [*self.waiting]
        owners = {each.request.owner for each in self.running}
        return [each for each in self.waiting if each.request.owner not in owners]

    def _keeps_one(self) -> bool:
        """Whether a slot is kept: where it is one of several, and one of several callers may want it."""
        recent = time.monotonic() - CALLER_SECONDS
        while self._callers and self._callers[first := next(iter(self._callers))] < recent:
            del self._callers[first]
        return self._slots >= LEAST_SLOTS and len(self._callers) > 1

    def _next(self, among: list[Sequence]) -> Sequence:
        turns = {owner: turn for turn, owner in enumerate(self._served)}
        sequence = min(among, key=lambda each: turns.get(each.request.owner, -1))
        owner, waiting = sequence.request.owner, {each.request.owner for each in self.waiting}
        self._served = [each for each in self._served if each in waiting and each != owner] + [owner]
        return sequence

    def advance(self, work: Work, outputs: list[int]) -> None:
        """Takes in what the model said: `outputs` holds the chosen token behind each row whose logits were wanted."""
        sequence = work.sequence
        if isinstance(work, Prefill):
            last = work.is_last
            sequence.cached += len(work.tokens)
            if last:
                self._hold(sequence)
                sequence.begin(outputs[0])
            return
        start = sequence.cached
        path = sequence.advance(work.tree, outputs)
        if path and sequence.slot is not None:
            self._cache.keep(sequence.slot, start, path)

    def _hold(self, sequence: Sequence) -> None:
        """Lets other prompts share what the sequence's slot holds by now."""
        if sequence.slot is not None and sequence.error is None:
            self._cache.hold(sequence.slot, sequence.tokens[: sequence.cached])

    def cancel(self) -> None:
        """Finishes the sequences that were marked as cancelled."""
        for sequence in [*self.waiting, *self.running]:
            if sequence.cancelled and not sequence.is_finished:
                sequence.finish_reason = FinishReason.CANCELLED

    def retire(self) -> list[Sequence]:
        """Removes the finished sequences, frees their slots and returns them."""
        finished = [s for s in [*self.waiting, *self.running] if s.is_finished]
        for sequence in finished:
            if sequence.slot is None:
                self.waiting.remove(sequence)
            else:
                self.running.remove(sequence)
                self._hold(sequence)
                self._cache.release(sequence.slot)
        return finished


def at_once(sequence: Sequence) -> int:
    """How many tokens of its prompt a sequence can take in one step."""
    return min(sequence.unread, SCORED_AT_ONCE) if sequence.scores_prompt else sequence.unread
