"""What earlier requests read and wrote, kept to draft for later ones of the same pool.

A draft never changes an output, but how fast an answer comes could tell what somebody else's request held. So a pool
has a name, which the gateway makes of the API key, and no request looks into another pool.
"""

from collections import OrderedDict, deque

from nimble_coder.engine.corpus import Corpus

MOST_TOKENS = 200_000
"""Some 200 bytes each."""
TEXTS = 32
"""Of one pool: each costs every step of a request a look."""

PoolTexts = list[tuple[str, Corpus]]
"""Texts with their pools, the oldest first."""


class Pools:
    """The texts of ended requests by pool, the oldest forgotten first. Used by the engine's thread, and read by others
    while a text that has ended no longer grows."""

    def __init__(self, most_tokens: int = MOST_TOKENS) -> None:
        """Keeps at most so many tokens in all pools together."""
        self._most = most_tokens
        self._pools: OrderedDict[str, deque[Corpus]] = OrderedDict()
        self.tokens = 0

    def texts(self, pool: str) -> list[Corpus]:
        """The texts of a pool, the newest first."""
        return list(self._pools.get(pool, ()))

    def add(self, pool: str, corpus: Corpus) -> None:
        """Keeps the text of a request that has ended; one that is larger than everything may be is not kept."""
        if len(corpus) > self._most:
            return
        texts = self._pools.setdefault(pool, deque())
        self._pools.move_to_end(pool)
        texts.appendleft(corpus)
        self.tokens += len(corpus)
        if len(texts) > TEXTS:
            self.tokens -= len(texts.pop())
        while self.tokens > self._most:
            self._forget()

    def all(self) -> PoolTexts:
        """Every text, in the order in which to add them to have these pools again."""
        return [(pool, text) for pool, texts in self._pools.items() for text in reversed(texts)]

    def _forget(self) -> None:
        """Drops the oldest text of the pool that was added to longest ago."""
        name, texts = next(iter(self._pools.items()))
        self.tokens -= len(texts.pop())
        if not texts:
            del self._pools[name]
