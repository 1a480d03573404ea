"""How requests ask to be drafted: the service's own choice, plainly, by (w,n,g), or by a drafter's name."""

import argparse
from dataclasses import dataclass
from typing import Any

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.engine.drafter import DRAFTERS

WAYS = f"default, plain, W,N,G, draft:N or one of {', '.join(DRAFTERS)}"


@dataclass(frozen=True)
class Drafting:
    """One configuration that is measured."""

    name: str
    lookahead: LookaheadConfig | None = None
    draft_tokens: int | None = None
    """Most tokens of a matching suffix."""
    drafting: str = ""
    """The drafter, by its name."""

    @classmethod
    def parse(cls, text: str) -> "Drafting":
        """`default`, `plain`, `W,N,G`, `draft:N` or a drafter's name. Raises `argparse.ArgumentTypeError`."""
        try:
            if text == "default":
                return cls(text)
            if text in DRAFTERS:
                return cls(text, drafting=text)
            if text == "plain":
                return cls(text, PLAIN)
            if text.startswith("draft:"):
                return cls(text, draft_tokens=most_drafts(text.removeprefix("draft:")))
            return cls(text, LookaheadConfig.parse(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not {WAYS}: {error}") from None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of an HTTP request (docs/request-fields.md)."""
        if self.drafting:
            return {"drafting": self.drafting}
        if self.draft_tokens is not None:
            return {"draft_tokens": self.draft_tokens}
        if self.lookahead is None:
            return {}
        w, n, g = self.lookahead.window_size, self.lookahead.ngram_size, self.lookahead.verification_set_size
        return {"lookahead": False if self.lookahead.is_plain else [w, n, g]}

    @property
    def request(self) -> dict[str, Any]:
        """The fields of an engine's `Request`."""
        if self.drafting:
            return {"drafting": self.drafting}
        if self.draft_tokens is not None:
            return {"draft_tokens": self.draft_tokens}
        return {} if self.lookahead is None else {"lookahead": self.lookahead}

    @property
    def max_draft_tokens(self) -> int | None:
        """Most draft tokens of a step; None where the service chooses."""
        return self.draft_tokens if self.lookahead is None else self.lookahead.max_draft_tokens


def most_drafts(text: str) -> int:
    """What a request's `draft_tokens` may be; raises `ValueError` for anything else."""
    found = int(text)
    if not 0 <= found <= MOST_DRAFTS:
        raise ValueError(f"N is 0 to {MOST_DRAFTS}")
    return found
