"""Drafting by matching suffixes: what followed earlier occurrences of the text's end may follow it again.

After Oliaro et al., "SuffixDecoding" (arXiv 2411.04975), on the request's own text alone. Places are found by their
last two tokens and compared backwards, newest first: a dictionary in place of a suffix tree. The tree of drafts grows
best first by an estimate of how likely each node is to be accepted, so that a sure match gives a long chain, several
continuations a bush, and an unsure one little or nothing.
"""

import heapq
from collections import defaultdict
from collections.abc import Sequence

from nimble_coder.engine.tree import TokenTree

CONFIDENCE = (0.0, 0.2, 0.4, 0.7, 0.75, 0.78, 0.8, 0.83, 0.86, 0.88, 0.9, 0.94, 0.97)
"""How likely the token behind the best places is, by how many tokens they share with the text's end: measured on
outputs of the real Qwen2.5-Coder-0.5B-Instruct for HumanEval's problems (some 1,000 tokens, made a rising curve)."""
LONGEST_MATCH = len(CONFIDENCE) - 1
"""Tokens that are compared."""
PLACES = 32
"""Earlier occurrences that are looked at, the newest first."""
LEAST = 0.15
"""A node that is less likely than this is not worth its row on a CPU, where 8 rows take 1.5 times as long as one."""
SURER = 4.0
"""How many times as much a place counts for each more token that it has in common with the end of the text."""

Places = dict[int, float]
"""Weight by the place in the text whose token may come next."""


class SuffixDrafter:
    """Implements `nimble_coder.engine.drafter.Drafter`."""

    def __init__(self, prompt: Sequence[int], most: int) -> None:
        """Drafts at most `most` tokens per step; 0 is plain decoding."""
        self._most = most
        self._text: list[int] = []
        self._behind_pair: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._behind_one: defaultdict[int, list[int]] = defaultdict(list)
        self.commit(prompt)

    @property
    def longest_path(self) -> int:
        """See `Drafter`."""
        return self._most

    def commit(self, accepted: Sequence[int]) -> None:
        """See `Drafter`."""
        text = self._text
        for token in accepted:
            text.append(token)
            self._behind_one[token].append(len(text))
            if len(text) > 1:
                self._behind_pair[text[-2], token].append(len(text))

    def update(self, tree: TokenTree, outputs: Sequence[int], accepted: Sequence[int]) -> None:  # noqa: ARG002
        """See `Drafter`."""
        self.commit(accepted)

    def draft(self, newest: int) -> TokenTree:
        """See `Drafter`."""
        tree = TokenTree(newest)
        longest, places = self._match()
        if not self._most or not places:
            return tree
        heap: list[tuple[float, int, int, int, int, Places]] = []
        pushed = 0

        def open_up(node: int, likelihood: float, match: int, places: Places) -> None:
            nonlocal pushed
            likelihood *= CONFIDENCE[min(match, LONGEST_MATCH)] / sum(places.values())
            for token, found in self._continuations(places).items():
                likely = likelihood * sum(found.values())
                if likely >= LEAST:
                    pushed += 1  # of equally likely nodes the first comes first
                    heapq.heappush(heap, (-likely, pushed, node, token, match + 1, found))

        open_up(0, 1.0, longest, places)
        while heap and len(tree) <= self._most:
            likelihood, _, node, token, match, found = heapq.heappop(heap)
            open_up(tree.add(node, token), -likelihood, match, found)
        return tree

    def _match(self) -> tuple[int, Places]:
        """How many tokens the best places share with the end of the text, and the places by their weight."""
        text, end = self._text, len(self._text)
        pairs = self._behind_pair.get((text[-2], text[-1]), []) if end > 1 else []
        candidates, known = (pairs, 2) if len(pairs) > 1 else (self._behind_one.get(text[-1], []), 1)
        lengths = {}
        for place in candidates[-2 : -2 - PLACES : -1]:  # the last one is the end itself
            length = known
            while length < min(LONGEST_MATCH, place) and text[place - 1 - length] == text[end - 1 - length]:
                length += 1
            lengths[place] = length
        longest = max(lengths.values(), default=0)
        return longest, {place: SURER ** (length - longest) for place, length in lengths.items()}

    def _continuations(self, places: Places) -> dict[int, Places]:
        """By the next token, the places behind it."""
        found: defaultdict[int, Places] = defaultdict(dict)
        for place, weight in places.items():
            if place < len(self._text):
                found[self._text[place]][place + 1] = weight
        return found
