"""Finds JSON Schemas that only an endless value could have: a grammar compiler takes them, and no answer would end."""

from typing import Any

from nimble_coder.engine.schema_parts import schemas_in
from nimble_coder.engine.schema_references import resolve

MOST_REFERENCES = 500
"""To different places: the time to compile a chain of them grows with the square of its length, 0.2 s for so many."""


def check_finite(schema: Any) -> None:
    """Raises ValueError for a schema that no finite value has, or that refers to too many places."""
    if len(set(references(schema))) > MOST_REFERENCES:
        raise ValueError(f"it refers to more than {MOST_REFERENCES} places: write some of them where they are used")
    if is_endless(schema):
        raise ValueError("only an endless value has it: let what refers to itself be left out somewhere")


def is_endless(schema: Any) -> bool:
    """Whether no finite value has it. What cannot be told is taken as finite, references that lead nowhere too."""
    finite = Finite(schema)
    targets = [resolve(schema, pointer) for pointer in set(references(schema))]
    while finite.grows(targets):
        pass
    return not finite.has(schema)


def references(part: Any, has_names: bool = False) -> list[str]:
    """The local references within a schema."""
    pointer = part.get("$ref") if isinstance(part, dict) and not has_names else None
    own = [pointer] if isinstance(pointer, str) and pointer.startswith("#") else []
    return own + [found for each, are_names in schemas_in(part, has_names) for found in references(each, are_names)]


class Finite:
    """Which parts of a schema finite values are known to have. Looks at each part once in a round, and no more once it
    is known: large parts that many references lead to would multiply."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._known: set[int] = set()
        self._unknown: set[int] = set()
        """In this round."""

    def grows(self, targets: list[Any]) -> bool:
        """Whether one more of what references lead to is found finite by a round."""
        before = len(self._known)
        self._unknown.clear()
        for target in targets:
            self.has(target)
        return len(self._known) > before

    def has(self, part: Any) -> bool:
        """Whether a finite value has this part, as far as is known of what it refers to."""
        if not isinstance(part, dict) or id(part) in self._known:
            return True
        if id(part) in self._unknown:
            return False
        is_found = self._is_found(part)
        (self._known if is_found else self._unknown).add(id(part))
        return is_found

    def _is_found(self, part: dict[str, Any]) -> bool:
        pointer = part.get("$ref")
        if isinstance(pointer, str) and pointer.startswith("#"):
            target = resolve(self._schema, pointer)
            if isinstance(target, dict) and id(target) not in self._known:
                return False
        for name in ("anyOf", "oneOf"):
            choices = part.get(name)
            if isinstance(choices, list) and choices and not any(self.has(each) for each in choices):
                return False
        every = part.get("allOf")
        if isinstance(every, list) and not all(self.has(each) for each in every):
            return False
        kind = part.get("type")
        is_object = kind == "object" or (kind is None and "properties" in part)
        return (not is_object or self._has_object(part)) and (kind != "array" or self._has_array(part))

    def _has_object(self, part: dict[str, Any]) -> bool:
        """Whether all that it requires can be finite."""
        properties, required = part.get("properties"), part.get("required")
        if not isinstance(properties, dict) or not isinstance(required, list):
            return True
        return all(self.has(properties.get(name)) for name in required if isinstance(name, str))

    def _has_array(self, part: dict[str, Any]) -> bool:
        """Whether the elements that it has to have can be finite."""
        least = part.get("minItems")
        if not isinstance(least, int) or least < 1:
            return True
        first = part.get("prefixItems")
        leading = first if isinstance(first, list) else []
        needed = leading[:least] if least <= len(leading) else [*leading, part.get("items")]
        return all(self.has(each) for each in needed)
