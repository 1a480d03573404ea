"""Incremental detokenising: text as soon as it is certain, never half a character."""

from collections.abc import Callable

LONGEST_CHARACTER = 4
"""Bytes, and so byte-level tokens, that one UTF-8 character takes at most."""


class Detokenizer:
    """Turns token deltas into text deltas.

    Exact for byte-level BPE (Qwen2's): there the bytes of two token runs are the bytes of one run after the other, so
    only a character whose bytes are not all there yet has to wait.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._pending: list[int] = []

    def push(self, ids: list[int]) -> str:
        """The text that the new ids complete; may be empty."""
        self._pending += ids
        if not self._pending:
            return ""
        text = self._decode(self._pending)
        if not text.endswith("\ufffd"):
            self._pending = []
            return text
        return self._hold_back(text)

    def finish(self) -> str:
        """What is left at the end of the generation, an incomplete character as U+FFFD."""
        text = self._decode(self._pending) if self._pending else ""
        self._pending = []
        return text

    def _hold_back(self, text: str) -> str:
        """Keeps the shortest tail that holds the incomplete character, and gives out the rest.

        No character crosses a cut whose sides read alike alone and together, whether it is whole or broken.
        """
        for size in range(1, LONGEST_CHARACTER):
            head, tail = self._pending[:-size], self._pending[-size:]
            before = self._decode(head) if head else ""
            if before + self._decode(tail) == text:
                self._pending = tail
                return before
        self._pending = []  # no character takes that many tokens: these bytes are not UTF-8 and never will be
        return text
