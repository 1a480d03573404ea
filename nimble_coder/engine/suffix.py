"""Drafting by matching suffixes: what followed earlier occurrences of the text's end may follow it again.

After Oliaro et al., "SuffixDecoding" (arXiv 2411.04975): the request's own text and, of the same pool, those of earlier
requests. Where they do not say, or not surely, what follows in other texts may (`followers.py`). The tree of
drafts grows best first by an estimate of how likely each node is to be accepted, so that a sure match gives a long
chain, several continuations a bush, and an unsure one little. Which of its nodes are worth their rows is `budget.py`'s
to say.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence

from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.engine.corpus import LONGEST_MATCH, Corpus, Places
from nimble_coder.engine.followers import Followers, Guesses
from nimble_coder.engine.tree import TokenTree

CONFIDENCE = (0.0, 0.2, 0.4, 0.7, 0.75, 0.78, 0.8, 0.83, 0.86, 0.88, 0.9, 0.94, 0.97)
"""How likely the token behind the best places is, by how many tokens they share with the text's end, the last one for
all longer matches: measured on outputs of the real Qwen2.5-Coder-0.5B-Instruct for HumanEval's problems (some 1,000
tokens, made a rising curve)."""
LEAST = 0.03
"""No step has a row for a node that is less likely than this."""
MEMORY, PRIOR = 0.95, 4.0
"""How fast the past is forgotten, per step; and what stands beside it, guesses that were as good as thought."""


class SuffixDrafter:
    """Implements `nimble_coder.engine.drafter.Drafter`."""

    def __init__(
        self, prompt: Sequence[int], most: int, others: Iterable[Corpus] = (), followers: Followers | None = None
    ) -> None:
        """Drafts at most `most` tokens per step; 0 is plain decoding. `others` are texts to look into besides."""
        self._most = most
        self._others = list(others)
        self.corpus = Corpus(prompt)
        self._guesses = Guesses(followers, prompt) if followers and most else None
        self._thought = self._accepted = 0.0
        """Guesses at a next token that were thought to be right, and those that were."""

    @property
    def longest_path(self) -> int:
        """See `Drafter`."""
        return self._most

    def commit(self, accepted: Sequence[int]) -> None:
        """See `Drafter`."""
        self._extend(accepted)

    def update(self, tree: TokenTree, outputs: Sequence[int], accepted: Sequence[int]) -> None:  # noqa: ARG002
        """See `Drafter`."""
        self._extend(accepted)
        self._judge(tree, accepted)

    def _extend(self, tokens: Sequence[int]) -> None:
        self.corpus.extend(tokens)
        if self._guesses:
            self._guesses.extend(tokens)

    def draft(self, newest: int, most: int = MOST_DRAFTS) -> TokenTree:
        """See `Drafter`."""
        corpus, longest, places = self._match()
        tree = TokenTree(newest, ("text" if corpus is self.corpus else "pool") if places else "followers")
        most = min(self._most, most)
        if not most:
            return tree
        trust = min(1.0, (self._accepted + PRIOR) / (self._thought + PRIOR))
        heap: list[tuple[float, int, int, int, int, Places]] = []
        pushed = 0

        def open_up(node: int, before: int, likelihood: float, match: int, places: Places) -> None:
            nonlocal pushed
            sure = trust * CONFIDENCE[min(match, len(CONFIDENCE) - 1)] if places else 0.0
            for token, (share, found) in self._next(corpus, before, tree.tokens[node], sure, places).items():
                likely = likelihood * share
                if likely >= LEAST:
                    pushed += 1  # of equally likely nodes the first comes first
                    heapq.heappush(heap, (-likely, pushed, node, token, match + 1, found))

        open_up(0, self._before, 1.0, longest, places)
        while heap and len(tree) <= most:
            likelihood, _, node, token, match, found = heapq.heappop(heap)
            open_up(tree.add(node, token, -likelihood), tree.tokens[node], -likelihood, match, found)
        return tree

    @property
    def _before(self) -> int:
        """The token before the text's last; -1 where there is none."""
        return self.corpus.tokens[-2] if len(self.corpus.tokens) > 1 else -1

    def _next(
        self, corpus: Corpus, before: int, last: int, sure: float, places: Places
    ) -> dict[int, tuple[float, Places]]:
        """What may follow two tokens: how likely each is, and its places. `sure` is how likely one of those is that
        follow at these `places`."""
        each = sure / sum(places.values()) if places else 0.0
        found = {
            token: (each * sum(behind.values()), behind)
            for token, behind in continuations(corpus.tokens, places).items()
        }
        for token, share in self._guesses.behind(before, last).items() if self._guesses else ():
            likely, behind = found.get(token, (0.0, {}))
            found[token] = (likely + (1.0 - sure) * share, behind)
        return found

    def _judge(self, tree: TokenTree, accepted: Sequence[int]) -> None:
        """Takes in how good the guesses along the accepted path were."""
        self._thought, self._accepted = MEMORY * self._thought, MEMORY * self._accepted
        offered = [0.0] * len(tree)
        end = len(tree) if tree.extra_from is None else tree.extra_from
        for parent, node in tree.edges():
            if node >= end:  # another drafter's
                break
            offered[parent] += tree.likelihoods[node]
        place = 0
        for token in accepted:
            if not offered[place]:
                return
            self._thought += offered[place] / tree.likelihoods[place]
            child = tree.child(place, token)
            if child is None or child >= end:
                return
            self._accepted += 1
            place = child

    def _match(self) -> tuple[Corpus, int, Places]:
        """The text that holds the longest end of this one, its own before the others', and where."""
        text = self.corpus.tokens
        best, (longest, places) = self.corpus, self.corpus.match(text)
        for other in self._others:
            if longest == LONGEST_MATCH:
                break
            length, found = other.match(text)
            if length > longest:
                best, longest, places = other, length, found
        return best, longest, places


def continuations(text: Sequence[int], places: Places) -> dict[int, Places]:
    """By the next token, the places behind it."""
    found: defaultdict[int, Places] = defaultdict(dict)
    for place, weight in places.items():
        if place < len(text):
            found[text[place]][place + 1] = weight
    return found
