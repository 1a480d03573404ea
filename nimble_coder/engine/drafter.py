"""What proposes a step's draft tokens: the seam between a request and the ways to guess what it goes on with."""

from collections.abc import Sequence
from typing import Protocol

from build_engine.lookahead import LookaheadConfig
from nimble_coder.engine.lookahead import Lookahead
from nimble_coder.engine.suffix import SuffixDrafter
from nimble_coder.engine.tree import TokenTree


class Drafter(Protocol):
    """The state of one request. It changes speed, never output."""

    @property
    def longest_path(self) -> int:
        """The most draft tokens that a step can accept."""

    def draft(self, newest: int) -> TokenTree:
        """The tree of the next step, rooted at the newest committed token."""

    def update(self, tree: TokenTree, outputs: Sequence[int], accepted: Sequence[int]) -> None:
        """Moves on by one step: `outputs[i]` is the token behind node i, `accepted` what was committed."""

    def commit(self, accepted: Sequence[int]) -> None:
        """Takes in tokens that came without a step of its own: the first one, behind the prompt."""


def make_drafter(config: LookaheadConfig, draft_tokens: int | None, prompt: Sequence[int], seed: int) -> Drafter:
    """By matching suffixes where a number of draft tokens was asked for, else by lookahead."""
    return Lookahead(config, prompt, seed) if draft_tokens is None else SuffixDrafter(prompt, draft_tokens)
