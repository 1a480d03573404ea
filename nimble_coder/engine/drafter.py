"""What proposes a step's draft tokens: the seam between a request and the ways to guess what it goes on with."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.contract.request import Request
from nimble_coder.engine.corpus import Corpus
from nimble_coder.engine.followers import Followers
from nimble_coder.engine.lookahead import Lookahead
from nimble_coder.engine.suffix import SuffixDrafter
from nimble_coder.engine.tree import TokenTree
from nimble_coder.engine.windowed import WindowedSuffixes


class Drafter(Protocol):
    """The state of one request. It changes speed, never output."""

    @property
    def longest_path(self) -> int:
        """The most draft tokens that a step can accept."""

    @property
    def corpus(self) -> Corpus | None:
        """The request's text, where the drafter keeps it."""

    def draft(self, newest: int, most: int) -> TokenTree:
        """The tree of the next step, rooted at the newest committed token. It has at most `most` draft tokens that
        may be left out (`TokenTree.likelihoods`)."""

    def update(self, tree: TokenTree, outputs: Sequence[int], accepted: Sequence[int]) -> None:
        """Moves on by one step: `outputs[i]` is the token behind node i, `accepted` what was committed."""

    def commit(self, accepted: Sequence[int]) -> None:
        """Takes in tokens that came without a step of its own: the first one, behind the prompt."""


@dataclass(frozen=True)
class Texts:
    """What there is to draft from."""

    own: Sequence[int]
    """The request's prompt as its text reads: an infill's in the order of its file (`infill.py`)."""
    others: Iterable[Corpus] = ()
    """Of earlier requests."""
    followers: Followers | None = None
    """Of texts at large."""


def by_lookahead(request: Request, config: LookaheadConfig, texts: Texts) -> Drafter:  # noqa: ARG001
    """From a window and n-grams under `config`."""
    return Lookahead(config, request.input_ids, request.seed)


def by_suffixes(request: Request, config: LookaheadConfig, texts: Texts) -> SuffixDrafter:  # noqa: ARG001
    """From what followed the text's end before, in the request's own text, in others, and in texts at large."""
    most = MOST_DRAFTS if request.draft_tokens is None else request.draft_tokens
    return SuffixDrafter(texts.own, most, texts.others, texts.followers)


def by_both(request: Request, config: LookaheadConfig, texts: Texts) -> Drafter:
    """From suffixes, and from a window beside them in steps whose rows are cheap."""
    return WindowedSuffixes(by_suffixes(request, config, texts), request.input_ids, request.seed)


LOOKAHEAD, SUFFIXES, WINDOWED = "lookahead", "suffixes", "windowed"
DRAFTERS: dict[str, Callable[[Request, LookaheadConfig, Texts], Drafter]] = {
    LOOKAHEAD: by_lookahead,
    SUFFIXES: by_suffixes,
    WINDOWED: by_both,
}
"""How each is made, by the name that a request calls it (`drafting`)."""


def make_drafter(
    request: Request, config: LookaheadConfig | None, texts: Texts | None = None, usual: str = SUFFIXES
) -> Drafter:
    """The drafter that the request names, else lookahead where there is a (w, n, g), else the usual one. Without
    `texts` there is the prompt as it stands."""
    name = request.drafting or (usual if config is None else LOOKAHEAD)
    return DRAFTERS[name](request, config or PLAIN, texts or Texts(request.input_ids))
