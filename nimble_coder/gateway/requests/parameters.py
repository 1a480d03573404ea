"""The schema of a function's arguments, which are an object."""

from typing import Any

from nimble_coder.engine.schema_references import resolve
from nimble_coder.gateway.errors import ApiError

OTHERS = ("string", "number", "integer", "boolean", "null", "array")
DEEPEST = 64


def check_parameters(name: str, parameters: dict[str, Any] | None, field: str) -> None:
    """Raises `ApiError`, as OpenAI does, for a schema that no object has."""
    if parameters is not None and not Objects(parameters).may_have(parameters):
        text = f"the parameters of {name[:80]!r} are a schema that no object has: send one of type object"
        raise ApiError(400, text, "invalid_function_parameters", field)


def of_objects(parameters: dict[str, Any]) -> dict[str, Any]:
    """The same schema, which only objects have: without a type, or with several, others might have it."""
    kind = parameters.get("type")
    return {**parameters, "type": "object"} if kind is None or isinstance(kind, list) else parameters


class Objects:
    """Which parts of a schema an object may have. What cannot be told is taken as if one had."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._known: dict[int, bool] = {}

    def may_have(self, part: Any, depth: int = 0) -> bool:
        """Looks at each part once, however many references lead to it: two to the whole would double at each depth.
        One that refers to itself has what the rest of it leaves."""
        if not isinstance(part, dict) or depth > DEEPEST:
            return part is not False
        if id(part) not in self._known:
            self._known[id(part)] = True
            self._known[id(part)] = self._found(part, depth + 1)
        return self._known[id(part)]

    def _found(self, part: dict[str, Any], depth: int) -> bool:
        every, pointer = list_of(part, "allOf"), part.get("$ref")
        if isinstance(pointer, str) and pointer.startswith("#"):
            every = [*every, resolve(self._schema, pointer)]
        choices = [found for name in ("anyOf", "oneOf") if (found := list_of(part, name))]
        return (
            not has_other_type(part)
            and all(self.may_have(each, depth) for each in every)
            and all(any(self.may_have(each, depth) for each in choice) for choice in choices)
        )


def has_other_type(part: dict[str, Any]) -> bool:
    """Whether its own type or values are those of no object."""
    kinds, values = part.get("type"), list_of(part, "enum")
    is_other = all(kind in OTHERS for kind in kinds) if isinstance(kinds, list) else kinds in OTHERS
    has_values = bool(values) and not any(isinstance(value, dict) for value in values)
    return is_other or has_values or not isinstance(part.get("const", {}), dict)


def list_of(part: dict[str, Any], name: str) -> list[Any]:
    """What a keyword has, where that is a list."""
    found = part.get(name)
    return found if isinstance(found, list) else []
