"""Drafting by matching suffixes, with lookahead's window beside them in steps whose rows are nearly free.

Suffixes draft what the text holds already; a window (Jacobi iterates, `lookahead.py`) drafts what it does not hold yet.
So the window's pool has only what the window made. Whether a step has it is `budget.py`'s to say: it joins as a whole.
A step without it leaves it as it was: its guesses are then about places that have been passed, which makes them worse,
never wrong, since all drafts are verified.
"""

from collections.abc import Sequence

from build_engine.lookahead import LookaheadConfig
from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.engine.corpus import Corpus
from nimble_coder.engine.lookahead import Lookahead
from nimble_coder.engine.suffix import MEMORY, PRIOR, SuffixDrafter
from nimble_coder.engine.tree import Extra, TokenTree

WINDOW = LookaheadConfig(4, 3, 4)
GAIN = 0.35
"""Tokens that a step's window brings where no suffix does, until a request has shown its own: chats and completions of
the real Qwen2.5-Coder-0.5B-Instruct had 0.31 and 0.36 (docs/benchmarks.md)."""
LEAST_CHANCE = 0.5
"""A step without its window costs later ones too, whose guesses are then about places that have been passed: so a step
in which suffixes look good counts as one in which they are as likely to fail. Where steps commit many tokens that is
little beside what a row has to bring."""


class WindowedSuffixes:
    """Implements `nimble_coder.engine.drafter.Drafter`."""

    def __init__(
        self, suffixes: SuffixDrafter, prompt: Sequence[int], seed: int, config: LookaheadConfig = WINDOW
    ) -> None:
        """The window begins with tokens of the prompt. Where `suffixes` may draft less than most it has no place."""
        self._suffixes = suffixes
        self._window = Lookahead(config, prompt, seed, reads_text=False)
        self._rows = config.max_draft_tokens
        """Rows that the window will take: at first at most, then as many as the last time."""
        self._has_place = suffixes.longest_path == MOST_DRAFTS
        self._brought = self._tried = self._chance = 0.0
        """Tokens that the window brought; steps that had it, each by how likely it was that no suffix brings a token;
        and how likely that is in this step."""

    @property
    def longest_path(self) -> int:
        """See `Drafter`."""
        return self._suffixes.longest_path

    @property
    def corpus(self) -> Corpus:
        """See `Drafter`."""
        return self._suffixes.corpus

    def draft(self, newest: int, most: int = MOST_DRAFTS) -> TokenTree:
        """See `Drafter`."""
        tree = self._suffixes.draft(newest, most)
        firsts = (likely for depth, likely in zip(tree.depths, tree.likelihoods, strict=True) if depth == 1)
        self._chance = max(1.0 - sum(firsts), 0.0)
        if self._has_place:
            share = (self._brought + PRIOR * GAIN) / (self._tried + PRIOR)
            tree.extra = Extra("lookahead", self._rows, max(self._chance, LEAST_CHANCE) * share, self._window.add_to)
        return tree

    def update(self, tree: TokenTree, outputs: Sequence[int], accepted: Sequence[int]) -> None:
        """See `Drafter`."""
        self._suffixes.update(tree, outputs, accepted)
        self._brought, self._tried = MEMORY * self._brought, MEMORY * self._tried
        if tree.extra_from is not None:
            self._brought += tree.extras_among(tree.path(accepted))
            self._tried += self._chance
            self._rows = len(tree) - tree.extra_from
            self._window.update(tree, outputs, accepted)

    def commit(self, accepted: Sequence[int]) -> None:
        """See `Drafter`."""
        self._suffixes.commit(accepted)
