"""Stop strings: found wherever the token boundaries fall, and not given out, not even in part, unless asked for."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text on, except what a stop string could still begin with."""

    def __init__(self, stops: Sequence[str], shows_stop: bool = False) -> None:
        """`shows_stop`: the one that is found is given out too."""
        self._shows_stop = shows_stop
        self._stops = [stop for stop in stops if stop]
        self._firsts = {stop[0] for stop in self._stops}
        self._longest = max((len(stop) for stop in self._stops), default=0)
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
        found = [(place, -len(stop), stop) for stop in self._stops if (place := held.find(stop)) >= 0]
        if found:
            place, _, self.matched = min(found)
            self.held = ""
            return held[: place + (len(self.matched) if self._shows_stop else 0)]
        keep = self._tail(held)
        self.held = held[keep:]
        return held[:keep]

    def flush(self) -> str:
        """What was held back and turned out to be no stop string: for the end of the generation."""
        held, self.held = self.held, ""
        return held

    def _tail(self, held: str) -> int:
        """Where the longest tail begins that a stop string begins with too."""
        for start in range(max(0, len(held) - self._longest + 1), len(held)):
            if held[start] in self._firsts:
                tail = held[start:]
                if any(stop.startswith(tail) for stop in self._stops):
                    return start
        return len(held)
