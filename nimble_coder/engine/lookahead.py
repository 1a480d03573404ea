"""Lookahead decoding: n-gram pool, window, and the tree of draft tokens that they make.

Fu et al., "Break the Sequential Dependency of LLM Inference Using Lookahead Decoding" (arXiv 2402.02057). W, N and G
are the paper's. Layout and policies follow TensorRT-LLM (lookaheadAlgorithm.cpp, lookaheadPoolManager.cpp): the prompt
and the output feed the pool, both branches share one tree, and both are verified.
"""

import random
from collections.abc import Sequence

from build_engine.lookahead import LookaheadConfig
from nimble_coder.engine.tree import TokenTree


class NgramPool:
    """For each token, the G newest (N-1)-grams seen behind it."""

    def __init__(self, ngram_size: int, capacity: int) -> None:
        self._n = ngram_size
        self._capacity = capacity
        self._ngrams: dict[int, dict[tuple[int, ...], None]] = {}  # insertion order is age

    def insert(self, key: int, ngram: tuple[int, ...]) -> None:
        """Makes `ngram` (N-1 tokens) the newest behind `key`; the oldest one leaves when there are more than G."""
        if not self._capacity:
            return
        known = self._ngrams.setdefault(key, {})
        known.pop(ngram, None)
        known[ngram] = None
        if len(known) > self._capacity:
            del known[next(iter(known))]

    def insert_text(self, tokens: Sequence[int]) -> None:
        """Inserts every n-gram of `tokens`, in order."""
        n = self._n
        for start in range(len(tokens) - n + 1):
            self.insert(tokens[start], tuple(tokens[start + 1 : start + n]))

    def lookup(self, key: int) -> list[tuple[int, ...]]:
        """The n-grams behind `key`, newest first."""
        return list(reversed(self._ngrams.get(key, {})))


class Lookahead:
    """Implements `nimble_coder.engine.drafter.Drafter`: pool, window, and the committed tokens that the next n-gram
    begins in.

    The window holds up to N-1 rows of W tokens, the oldest Jacobi iterate first: row r of column c is a guess at the
    token r+c places behind the newest one. While rows are missing (the filling phase, N-2 steps), a prefix of random
    prompt tokens stands in their place. Window and pool change speed, never output.
    """

    def __init__(self, config: LookaheadConfig, prompt: Sequence[int], seed: int, reads_text: bool = True) -> None:
        """Without `reads_text` the pool holds what the window made, and no n-gram of prompt and output."""
        self._w, self._n, g = config.window_size, config.ngram_size, config.verification_set_size
        rng = random.Random(seed)
        self._prefix = [rng.choice(prompt) for _ in range(self._n - 2)]
        self._rows = [[rng.choice(prompt) for _ in range(self._w)]] if self._n > 1 else []
        self._pool = NgramPool(self._n, g)
        self._tail = list(prompt[-self._n :])
        self._reads_text = reads_text and self._n > 1
        if self._reads_text:
            self._pool.insert_text(prompt)
        self._ends: list[int] = []

    @property
    def longest_path(self) -> int:
        """The most draft tokens that a step can accept: N-1."""
        return self._n - 1

    @property
    def corpus(self) -> None:
        """See `Drafter`."""

    def draft(self, newest: int, most: int = 0) -> TokenTree:  # noqa: ARG002 - a (w,n,g) has as many as it has
        """The tree of the next step, rooted at the newest committed token."""
        tree = TokenTree(newest)
        if self._n > 1:
            self.add_to(tree)
        return tree

    def add_to(self, tree: TokenTree) -> None:
        """Adds the n-grams behind the root, and the window, to a tree that may hold other drafts; N > 1."""
        for ngram in self._pool.lookup(tree.tokens[0]):
            tree.add_path(0, ngram)
        self._add_window(tree)

    def _add_window(self, tree: TokenTree) -> None:
        """Adds the window's columns: a spine of row-0 tokens, and from each of its nodes a chain of the newer rows."""
        first, *newer = self._rows
        filling = len(self._rows) < self._n - 1
        spine = tree.add_path(0, self._prefix[len(self._rows) :]) if filling else 0
        self._ends = []
        for column in range(self._w):
            if filling or column:  # once the window is full, the root stands in the place of the first cell
                spine = tree.add(spine, first[column])
            self._ends.append(tree.add_path(spine, [row[column] for row in newer]))

    def update(self, tree: TokenTree, outputs: Sequence[int], accepted: Sequence[int]) -> None:
        """Moves on by one step: `outputs[i]` is the model's token behind node i, `accepted` what was committed."""
        if self._n == 1:
            return
        newest = [outputs[end] for end in self._ends]
        if len(self._rows) == self._n - 1:
            keys = [tree.tokens[0], *self._rows[0][1:]]
            for column, key in enumerate(keys):
                self._pool.insert(key, (*(row[column] for row in self._rows[1:]), newest[column]))
            self._rows.pop(0)
        self._rows.append(newest)
        self.commit(accepted)

    def commit(self, accepted: Sequence[int]) -> None:
        """Puts the n-grams that end in newly committed tokens into the pool."""
        if not self._reads_text:
            return
        self._pool.insert_text(self._tail[-(self._n - 1) :] + list(accepted))
        self._tail = (self._tail + list(accepted))[-self._n :]
