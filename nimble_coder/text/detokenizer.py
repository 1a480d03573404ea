"""Incremental detokenising: text as soon as it is certain, never half a character."""

import codecs
from collections.abc import Callable

LONGEST_CHARACTER = 4
"""Bytes, and so byte-level tokens, that one UTF-8 character takes at most."""


class Detokenizer:
    """Turns token deltas into text deltas.

    Exact for byte-level BPE (Qwen2's): there the bytes of two token runs are the bytes of one run after the other, so
    only a character whose bytes are not all there yet has to wait.
    """

    def __init__(self, decode: Callable[[list[int]], str], token_bytes: Callable[[int], bytes] | None = None) -> None:
        """`token_bytes` tells at the end an incomplete character from broken bytes, and from U+FFFD itself."""
        self._decode = decode
        self._token_bytes = token_bytes
        self.pending: list[int] = []
        """The tokens that wait; never changed in place, so that whoever keeps it can come back to it."""

    def push(self, ids: list[int]) -> str:
        """The text that the new ids complete; may be empty."""
        self.pending = [*self.pending, *ids] if self.pending else ids
        if not self.pending:
            return ""
        text = self._decode(self.pending)
        if not text.endswith("\ufffd"):
            self.pending = []
            return text
        return self._hold_back(text)

    def finish(self) -> str:
        """What is left at the end of the generation, without a character that was cut."""
        text = self._decode(self.pending) if self.pending else ""
        if text.endswith("\ufffd") and self._is_cut():
            text = text[:-1]  # of one character that is cut, however many bytes it has already
        self.pending = []
        return text

    def _is_cut(self) -> bool:
        if self._token_bytes is None:
            return True
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(b"".join(map(self._token_bytes, self.pending)))
        return bool(decoder.getstate()[0])

    def _hold_back(self, text: str) -> str:
        """Keeps the shortest tail that holds the incomplete character, and gives out the rest.

        No character crosses a cut whose sides read alike alone and together, whether it is whole or broken.
        """
        for size in range(1, LONGEST_CHARACTER):
            head, tail = self.pending[:-size], self.pending[-size:]
            before = self._decode(head) if head else ""
            if before + self._decode(tail) == text:
                self.pending = tail
                return before
        self.pending = []  # no character takes that many tokens: these bytes are not UTF-8 and never will be
        return text
