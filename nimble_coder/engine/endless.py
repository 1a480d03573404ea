"""Finds JSON Schemas that only an endless value could have: a grammar compiler takes them, and no answer would end."""

from typing import Any

Pointers = frozenset[str]


def is_endless(schema: Any) -> bool:
    """Whether no finite value has it. What cannot be told is taken as finite, references that lead nowhere too."""
    finite: Pointers = frozenset()
    known = set(references(schema))
    while True:
        found = frozenset(p for p in known if p in finite or is_finite(resolve(schema, p), finite))
        if found == finite:
            return not is_finite(schema, finite)
        finite = found


def references(part: Any) -> list[str]:
    """The local references within a schema."""
    if isinstance(part, list):
        return [pointer for each in part for pointer in references(each)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) and part["$ref"].startswith("#") else []
    return own + [pointer for each in part.values() for pointer in references(each)]


def resolve(schema: Any, pointer: str) -> Any:
    """What a local reference means; true, which anything has, where there is nothing."""
    part = schema
    for name in pointer.removeprefix("#").strip("/").split("/"):
        if name:
            name = name.replace("~1", "/").replace("~0", "~")  # noqa: PLW2901 - RFC 6901's escapes
            part = part.get(name, True) if isinstance(part, dict) else True
    return part


def is_finite(part: Any, finite: Pointers) -> bool:
    """Whether a finite value has this part of a schema, where the references in `finite` have one."""
    if not isinstance(part, dict):
        return True
    pointer = part.get("$ref")
    if isinstance(pointer, str) and pointer.startswith("#") and pointer not in finite:
        return False
    for name in ("anyOf", "oneOf"):
        choices = part.get(name)
        if isinstance(choices, list) and choices and not any(is_finite(each, finite) for each in choices):
            return False
    every = part.get("allOf")
    if isinstance(every, list) and not all(is_finite(each, finite) for each in every):
        return False
    kind = part.get("type")
    is_object = kind == "object" or (kind is None and "properties" in part)
    return (not is_object or has_finite_object(part, finite)) and (kind != "array" or has_finite_array(part, finite))


def has_finite_object(part: dict[str, Any], finite: Pointers) -> bool:
    """Whether all that it requires can be finite."""
    properties, required = part.get("properties"), part.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return True
    return all(is_finite(properties.get(name), finite) for name in required if isinstance(name, str))


def has_finite_array(part: dict[str, Any], finite: Pointers) -> bool:
    """Whether the elements that it has to have can be finite."""
    least = part.get("minItems")
    if not isinstance(least, int) or least < 1:
        return True
    first = part.get("prefixItems")
    leading = first if isinstance(first, list) else []
    needed = leading[:least] if least <= len(leading) else [*leading, part.get("items")]
    return all(is_finite(each, finite) for each in needed)
