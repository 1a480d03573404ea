"""A text by its tokens, in which earlier occurrences of an end are found: chains of places, as in LZ77."""

from collections.abc import Iterator, Sequence

LONGEST_MATCH = 48
"""Tokens that are compared: of an infill's earlier answers, those for the same hole share more than any other text."""
PLACES = 32
"""Earlier occurrences that are looked at, the newest first."""
SURER = 4.0
"""How many times as much a place counts for each more token that it has in common with the end of the text."""
NONE = 0

Places = dict[int, float]
"""Weight by the place in the text whose token may come next."""


class Corpus:
    """Grows by a token in constant time. For each place, the one before it behind the same two tokens, and behind the
    same one, is kept: two dictionaries and two lists in place of a suffix tree."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self.tokens: list[int] = []
        self._pairs: dict[tuple[int, int], int] = {}
        self._ones: dict[int, int] = {}
        self._before_pair: list[int] = [NONE]
        self._before_one: list[int] = [NONE]
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Appends tokens."""
        text, pairs, ones = self.tokens, self._pairs, self._ones
        last = text[-1] if text else None
        for token in tokens:
            text.append(token)
            place = len(text)
            self._before_one.append(ones.get(token, NONE))
            ones[token] = place
            if last is None:
                self._before_pair.append(NONE)
            else:
                self._before_pair.append(pairs.get((last, token), NONE))
                pairs[last, token] = place
            last = token

    def match(self, end: Sequence[int]) -> tuple[int, Places]:
        """How many of the last tokens of `end` stand before the best places, and those places by their weight.

        `end` may be this very text, whose own end is no place.
        """
        lengths = {place: self._common(place, end) for place in self._candidates(end)}
        longest = max(lengths.values(), default=0)
        return longest, {place: SURER ** (length - longest) for place, length in lengths.items()}

    def _candidates(self, end: Sequence[int]) -> list[int]:
        """Places behind the last two tokens, or where there is none behind the last one, the newest first."""
        pairs = self._pairs.get((end[-2], end[-1]), NONE) if len(end) > 1 else NONE
        found = list(self._chain(pairs, self._before_pair))
        return found or list(self._chain(self._ones.get(end[-1], NONE), self._before_one))

    def _chain(self, place: int, before: Sequence[int]) -> Iterator[int]:
        if place == len(self.tokens):  # nothing follows the end
            place = before[place]
        for _ in range(PLACES):
            if place == NONE:
                return
            yield place
            place = before[place]

    def _common(self, place: int, end: Sequence[int]) -> int:
        text, last, length = self.tokens, len(end) - 1, 1
        most = min(LONGEST_MATCH, place, len(end))
        while length < most and text[place - 1 - length] == end[last - length]:
            length += 1
        return length
