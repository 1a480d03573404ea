"""Stop strings: found wherever the token boundaries fall, and not given out, not even in part, unless asked for."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


class StopMatcher:
    """Passes text on, except what a stop string could still begin with."""

    def __init__(self, stops: Sequence[str], shows_stop: bool = False) -> None:
        """`shows_stop`: the one that is found is given out too."""
        self._shows_stop = shows_stop
        self._stops = {stop for stop in stops if stop}  # there may be tens of thousands: none is looked at by itself
        self._sorted = sorted(self._stops)
        self._firsts = {stop[0] for stop in self._stops}
        self._lengths = sorted({len(stop) for stop in self._stops})
        self._longest = max(self._lengths, default=0)
        self.held = ""
        """What a stop string could begin with."""
        self.matched: str | None = None
        """The stop string that was found; nothing is given out behind it."""

    def push(self, text: str) -> str:
        """The text that is certain to belong to the answer."""
        if not self._stops:
            return text
        if self.matched is not None:
            return ""
        held = self.held + text
        place, self.matched = self._find(held, len(self.held))
        if self.matched is not None:
            self.held = ""
            return held[: place + (len(self.matched) if self._shows_stop else 0)]
        keep = self._tail(held)
        self.held = held[keep:]
        return held[:keep]

    def flush(self) -> str:
        """What was held back and turned out to be no stop string: for the end of the generation."""
        held, self.held = self.held, ""
        return held

    def _find(self, held: str, known: int) -> tuple[int, str | None]:
        """The first stop string in a text and where it begins, of several there the longest. None ends in what was
        known before."""
        for place, first in enumerate(held):
            if first in self._firsts:
                ended, ending = (bisect_right(self._lengths, size - place) for size in (known, len(held)))
                for length in reversed(self._lengths[ended:ending]):
                    if (part := held[place : place + length]) in self._stops:
                        return place, part
        return 0, None

    def _tail(self, held: str) -> int:
        """Where the longest tail begins that a stop string begins with too."""
        for start in range(max(0, len(held) - self._longest + 1), len(held)):
            if held[start] in self._firsts:
                tail = held[start:]
                place = bisect_left(self._sorted, tail)
                if place < len(self._sorted) and self._sorted[place].startswith(tail):
                    return start
        return len(held)
