"""Lookahead decoding: n-gram pool, window, the tree of draft tokens of a step, and its verification.

Fu et al., "Break the Sequential Dependency of LLM Inference Using Lookahead Decoding" (arXiv 2402.02057). W, N and G
are the paper's. Layout and policies follow TensorRT-LLM (lookaheadAlgorithm.cpp, lookaheadPoolManager.cpp): the prompt
and the output feed the pool, both branches share one tree, and both are verified.
"""

import random
from collections.abc import Sequence

from build_engine.lookahead import LookaheadConfig


class TokenTree:
    """The input of one decoding step: the newest token at the root and draft tokens below it.

    Node i is the i-th token of the step and of its KV entries; a parent always comes before its children. No two
    children of a node hold the same token, so equal beginnings of draft sequences are computed once.
    """

    def __init__(self, root: int) -> None:
        self.tokens = [root]
        self.depths = [0]
        self.visible = [1]
        """Per node, a bit set of the nodes it attends to: its ancestors and itself."""
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def child(self, node: int, token: int) -> int | None:
        """The child of `node` that holds `token`."""
        return self._children.get((node, token))

    def add(self, node: int, token: int) -> int:
        """The child of `node` that holds `token`, made where there is none."""
        index = self._children.get((node, token))
        if index is None:
            index = self._children[node, token] = len(self.tokens)
            self.tokens.append(token)
            self.depths.append(self.depths[node] + 1)
            self.visible.append(self.visible[node] | 1 << index)
        return index

    def add_path(self, node: int, tokens: Sequence[int]) -> int:
        """Adds a chain of tokens below `node` and returns its last node."""
        children, held, depths, visible = self._children, self.tokens, self.depths, self.visible
        for token in tokens:  # `add`, spelled out: a hundred calls a step are felt beside a GPU's
            index = children.get((node, token))
            if index is None:
                index = children[node, token] = len(held)
                held.append(token)
                depths.append(depths[node] + 1)
                visible.append(visible[node] | 1 << index)
            node = index
        return node


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
    """The state of one request: its pool, its window, and the committed tokens that the next n-gram begins in.

    The window holds up to N-1 rows of W tokens, the oldest Jacobi iterate first: row r of column c is a guess at the
    token r+c places behind the newest one. While rows are missing (the filling phase, N-2 steps), a prefix of random
    prompt tokens stands in their place. Window and pool change speed, never output.
    """

    def __init__(self, config: LookaheadConfig, prompt: Sequence[int], seed: int) -> None:
        self._w, self._n, g = config.window_size, config.ngram_size, config.verification_set_size
        rng = random.Random(seed)
        self._prefix = [rng.choice(prompt) for _ in range(self._n - 2)]
        self._rows = [[rng.choice(prompt) for _ in range(self._w)]] if self._n > 1 else []
        self._pool = NgramPool(self._n, g)
        self._tail = list(prompt[-self._n :])
        if self._n > 1:
            self._pool.insert_text(prompt)
        self._ends: list[int] = []

    @property
    def longest_path(self) -> int:
        """The most draft tokens that a step can accept: N-1."""
        return self._n - 1

    def draft(self, newest: int) -> TokenTree:
        """The tree of the next step, rooted at the newest committed token."""
        tree = TokenTree(newest)
        if self._n == 1:
            return tree
        for ngram in self._pool.lookup(newest):
            tree.add_path(0, ngram)
        self._add_window(tree)
        return tree

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
        self._pool.insert_text(self._tail[-(self._n - 1) :] + list(accepted))
        self._tail = (self._tail + list(accepted))[-self._n :]


def verify(tree: TokenTree, outputs: Sequence[int], longest_path: int) -> tuple[list[int], list[int]]:
    """Walks from the root along the model's own greedy choices for as long as the tree holds them.

    Returns the tokens to commit (1 to `longest_path` + 1) and the nodes of the path behind the root whose KV entries
    stay valid, one fewer. Greedy decoding would have committed exactly these tokens, one a step.
    """
    tokens, path, node = [outputs[0]], list[int](), 0
    while len(path) < longest_path and (child := tree.child(node, tokens[-1])) is not None:
        node = child
        path.append(node)
        tokens.append(outputs[node])
    return tokens, path
