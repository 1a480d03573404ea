"""How much a validator of JSON Schema has to do, counted before it is let do it.

A validator remembers nothing: what two references name, it looks at twice, and so on at every level of the schema or of
the value. Thirty levels take minutes. Here each pair of a schema's part and a value is looked at once.
"""

from collections.abc import Iterator
from typing import Any

from nimble_coder.engine.schema_parts import schemas_in
from nimble_coder.engine.schema_references import resolve

MOST_LOOKS = 200_000
"""At a value by a part of a schema: some 20 ms."""
MOST_PAIRS = 20_000
"""Different ones: counting takes 2 us for each."""
SAME_LISTS = ("allOf", "anyOf", "oneOf", "dependentSchemas", "dependencies")
SAME = ("not", "if", "then", "else")
"""Parts that look at the same value."""
EACH_LISTS = ("patternProperties", "prefixItems")
EACH = ("items", "additionalProperties", "additionalItems", "contains", "propertyNames")
"""Parts that look at what is in the value, and may look at all of it."""
UNFOLLOWED = ("$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems")
"""Keywords that have a validator look where nobody here could say, or at all that stands beside them once more."""


def check_keywords(part: Any, has_names: bool = False) -> None:
    """Raises ValueError where a schema has a keyword whose looks cannot be counted."""
    found = next((name for name in UNFOLLOWED if name in part), None) if isinstance(part, dict) else None
    if found and not has_names:
        raise ValueError(f"{found} is not available: leave it out")
    for each, are_names in schemas_in(part, has_names):
        check_keywords(each, are_names)


def is_much(schema: Any, value: Any) -> bool:
    """Whether a validator could have to look too often to tell whether a value has the schema."""
    work = Work(schema)
    return work.of(schema, value) > MOST_LOOKS or work.is_large


class Work:
    """The looks that a schema's parts take at values."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._known: dict[tuple[int, int], int] = {}
        self._found: dict[int, tuple[list[Any], list[Any], dict[str, Any]]] = {}

    @property
    def is_large(self) -> bool:
        return len(self._known) > MOST_PAIRS

    def of(self, part: Any, value: Any) -> int:
        """How often something is looked at, all parts of the part and of the value included; raises RecursionError."""
        pair = id(part), id(value)
        if pair not in self._known and not self.is_large:
            self._known[pair] = 0  # a reference that comes back to its own place, where the validator ends
            self._known[pair] = 1 + sum(self.of(*look) for look in self._looks(part, value))
        return self._known.get(pair, 0)

    def _looks(self, part: Any, value: Any) -> Iterator[tuple[Any, Any]]:
        """What a part has looked at in its turn, and by what."""
        same, each, named = self._parts(part)
        yield from ((other, value) for other in same)
        if isinstance(value, dict):
            yield from ((named[name], value[name]) for name in named.keys() & value.keys())
            yield from ((other, inner) for other in each for inner in (*value.values(), *value))
        elif isinstance(value, list):
            yield from ((other, inner) for other in each for inner in value)

    def _parts(self, part: Any) -> tuple[list[Any], list[Any], dict[str, Any]]:
        """The parts that look at the same value, at each that is in it, and at those of its properties."""
        found = self._found.get(id(part))
        if found is None:
            found = self._found[id(part)] = self._find(part) if isinstance(part, dict) else ([], [], {})
        return found

    def _find(self, part: dict[str, Any]) -> tuple[list[Any], list[Any], dict[str, Any]]:
        same = [each for name in SAME_LISTS for each in parts_of(part.get(name))]
        same += [part[name] for name in SAME if name in part]
        if isinstance(part.get("$ref"), str):
            same.append(resolve(self._schema, part["$ref"]))
        each = [other for name in EACH_LISTS for other in parts_of(part.get(name))]
        each += [part[name] for name in EACH if isinstance(part.get(name), dict)]
        each += part["items"] if isinstance(part.get("items"), list) else []  # as in draft 7
        named = part.get("properties")
        return same, each, named if isinstance(named, dict) else {}


def parts_of(given: Any) -> list[Any]:
    """The parts in a list or by name; none of anything else."""
    return [*given.values()] if isinstance(given, dict) else given if isinstance(given, list) else []
