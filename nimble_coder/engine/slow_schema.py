"""Finds JSON Schemas that take llguidance minutes to compile, within its limits: their strings are automata."""

from math import lcm
from typing import Any

from nimble_coder.engine.schema_parts import schemas_in
from nimble_coder.engine.schema_references import resolve

MOST_JOINED = 6
"""Patterns and formats that hold for one string: 8 took a core 5 ms, each two more ten times as long."""
MOST_MULTIPLE = 1000
"""Of all values of `multipleOf` together, their points left out: the automaton has as many states."""
DEEPEST = 200
CHOICES = ("anyOf", "oneOf")


def check_patterns(schema: Any) -> None:
    """Raises ValueError for too many patterns that a string must match at once, and for too large a `multipleOf`."""
    joined = Joined(schema)
    if joined.of(schema) > MOST_JOINED:
        raise ValueError(f"more than {MOST_JOINED} patterns or formats hold for one string: join them in one pattern")
    if lcm(*joined.multiples) > MOST_MULTIPLE:
        raise ValueError(f"multipleOf is held to up to {MOST_MULTIPLE}, all of them together and their points left out")


class Joined:
    """At most so many patterns hold at once for any value in a schema."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._known: dict[int, int] = {}
        self.multiples: set[int] = set()

    def of(self, part: Any, depth: int = 0, has_names: bool = False) -> int:
        """In this part; what is in the making where it refers to itself counts there."""
        if isinstance(part, list):
            return max((self.of(each, depth + 1) for each in part), default=0)
        if not isinstance(part, dict) or depth > DEEPEST:
            return 0
        if id(part) not in self._known:
            self._known[id(part)] = 0
            self._known[id(part)] = self._within(part, depth + 1) if has_names else self._joined(part, depth + 1)
        return self._known[id(part)]

    def _joined(self, part: dict[str, Any], depth: int) -> int:
        self.multiples.add(without_point(part.get("multipleOf", 1)))
        pointer, every = part.get("$ref"), part.get("allOf")
        count = sum(name in part for name in ("pattern", "format"))
        if isinstance(pointer, str) and pointer.startswith("#"):
            target = resolve(self._schema, pointer)
            # A list is no schema, and would be read again for each reference to it.
            count += self.of(target, depth) if isinstance(target, dict) else 0
        if isinstance(every, list):
            count += sum(self.of(each, depth) for each in every)
        for name in CHOICES:
            count += self.of(part.get(name), depth)
        others = {name: value for name, value in part.items() if name not in ("allOf", *CHOICES)}
        return max(count, self._within(others, depth, has_names=False))

    def _within(self, part: dict[str, Any], depth: int, has_names: bool = True) -> int:
        """In any of the parts of a part."""
        return max((self.of(each, depth, are_names) for each, are_names in schemas_in(part, has_names)), default=0)


def without_point(value: Any) -> int:
    """A number's digits; 1 for what is none, too many for a number that is too large or too small."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 1
    if not 1e-9 < abs(value) < 1e15:
        return MOST_MULTIPLE + 1
    digits = f"{abs(value):.9f}".rstrip("0")
    return int(digits.replace(".", "")) if not digits.endswith(".") else int(digits[:-1])
