"""A JSON Schema as a grammar. What is written is valid, though not all that is valid may be written.

xgrammar's own converter is not used: that of TensorRT-LLM 0.19's age passes over most bounds, takes
`exclusiveMinimum` for `minimum`, and throws at a list of types, within the step that all requests share.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nimble_coder.engine.endless import check_finite
from nimble_coder.engine.schema_references import resolve
from nimble_coder.gateway.requests.ebnf.grammar import MOST_COPIES, FormError, Grammar, literal, repeated
from nimble_coder.gateway.requests.forms import guidance_of

ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator")
) | {"$comment", "$schema", "$id", "$defs", "definitions", "x-guidance"}
"""What forbids no value."""
KINDS: dict[str, tuple[str, ...]] = {
    "string": ("minLength", "maxLength", "format"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "number": (),
    "boolean": (),
    "null": (),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "object": ("properties", "required", "additionalProperties"),
}
"""What a value of each type is held to."""
NUMERIC = set(KINDS["integer"])
OF_ONE_TYPE = {name for names in KINDS.values() for name in names}
"""Beside another type they mean nothing."""
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
DATE = '[12] [0-9]{3} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])'
TIME = '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] "Z"'
FORMATS = {
    "date": DATE,
    "time": TIME,
    "date-time": f'{DATE} "T" {TIME}',
    "uuid": '[0-9a-f]{8} "-" [0-9a-f]{4} "-4" [0-9a-f]{3} "-" [89ab] [0-9a-f]{3} "-" [0-9a-f]{12}',
}
CHARACTER = r'[^"\\\x00-\x1f\x7f]'
ANY = {
    "string": '"\\"" rest',
    "rest": rf'"\"" | {CHARACTER} rest | "\\" ["\\/bfnrt] rest',
    "integer": '"-"? ("0" | [1-9] [0-9]*)',
    "number": 'integer ("." [0-9]+)? ([eE] [+-]? [0-9] [0-9]?)?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "array": '"[" (value (", " value)*)? "]"',
    "object": '"{" (string ": " value (", " string ": " value)*)? "}"',
    "value": "object | array | string | number | boolean | null",
}
"""Any JSON, on one line."""
MOST_NUMBERS = 1000
"""A range of integers is written out."""
DEEPEST = 64


@dataclass(frozen=True)
class Place:
    """Where in a schema a part stands."""

    depth: int = 0
    above: frozenset[str] = frozenset()
    """References that led here without a character between: they must not come again."""

    def inside(self) -> "Place":
        """Behind a bracket."""
        return Place(self.depth + 1)


class SchemaGrammar:
    """Makes the grammar of a schema and everything that it refers to."""

    def __init__(self, schema: Any, grammar: Grammar) -> None:
        """`grammar` gets the rules. Where the schema's `x-guidance` is lenient, keywords that cannot be held to are
        passed over."""
        self._schema, self._grammar = schema, grammar
        self._is_lenient = bool(guidance_of(schema).get("lenient"))
        self._references: dict[str, str] = {}
        grammar.rules.update(ANY)

    def body(self) -> str:
        """What a rule holds that is the whole; raises `FormError`."""
        try:
            check_finite(self._schema)
        except ValueError as error:
            raise FormError(str(error)) from None
        return self._of(self._schema, Place())

    def _of(self, part: Any, place: Place) -> str:
        if part is True or part == {}:
            return "value"
        if not isinstance(part, dict):
            raise FormError(f"a schema is {json.dumps(part)[:40]}, which no value has here")
        if place.depth > DEEPEST:
            raise FormError(f"the schema is nested more than {DEEPEST} deep")
        if "$ref" in part:
            self._check(part, ("$ref",))
            return self._referred(part["$ref"], place)
        for name in ("const", "enum"):
            if name in part:
                self._check(part, (name, "type"))
                return self._one_of(part[name] if name == "enum" else [part[name]], part.get("type"))
        for name in ("anyOf", "oneOf", "allOf"):
            if name in part:
                return self._combined(part, name, place)
        return self._typed(part, place)

    def _check(self, part: dict[str, Any], known: Iterable[str]) -> None:
        """Raises `FormError` for a keyword that is not known beside the others."""
        for name in part:
            if name not in ANNOTATIONS and name not in known and not self._is_lenient:
                raise FormError(f"this engine cannot be held to the schema's {name[:40]!r}")

    def _referred(self, pointer: Any, place: Place) -> str:
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            raise FormError(f"the schema refers to {str(pointer)[:80]!r}, which is not in it")
        if pointer in place.above:
            raise FormError(f"the schema's {pointer[:80]!r} is itself")
        if pointer not in self._references:
            target = resolve(self._schema, pointer)
            if target is True:
                raise FormError(f"the schema refers to {pointer[:80]!r}, which is not in it")
            name = self._references[pointer] = self._grammar.name()
            below = Place(place.depth + 1, place.above | {pointer})
            self._grammar.define(name, self._of(target, below))
        return self._references[pointer]

    def _one_of(self, values: Any, kind: Any) -> str:
        if not isinstance(values, list):
            raise FormError("the schema's enum is no list")
        kinds = kind if isinstance(kind, list) else [kind]
        types = tuple(each for name in kinds if isinstance(name, str) for each in TYPES.get(name, ()))
        kept = [v for v in values if kind is None or (isinstance(v, types) and (bool in types or v is not bool(v)))]
        if not kept:
            raise FormError("the schema allows no value somewhere")
        return self._grammar.add(" | ".join(literal(json.dumps(value)) for value in kept))

    def _combined(self, part: dict[str, Any], name: str, place: Place) -> str:
        self._check(part, (name,))
        choices = part[name]
        if not isinstance(choices, list) or not choices:
            raise FormError(f"the schema's {name} is no list of schemas")
        is_one = len(choices) == 1
        if not is_one and (name == "allOf" or (name == "oneOf" and not self._is_lenient)):
            raise FormError(f"this engine cannot be held to the schema's {name!r}")
        below = Place(place.depth + 1, place.above)
        return self._grammar.add(" | ".join(self._of(each, below) for each in choices))

    def _typed(self, part: dict[str, Any], place: Place) -> str:
        kind = part.get("type")
        if isinstance(kind, list) and kind:
            return self._grammar.add(" | ".join(self._typed({**part, "type": each}, place) for each in kind))
        if kind is None:
            kind = next((each for each in ("object", "array") if set(KINDS[each]) & set(part)), "value")
        if not isinstance(kind, str) or kind not in (*KINDS, "value"):
            raise FormError(f"the schema's type {str(kind)[:40]!r} is not known")
        self._check(part, {"type", *OF_ONE_TYPE} - (NUMERIC if kind == "number" else set()) if kind in KINDS else ())
        makers = {"string": self._string, "integer": self._integer}
        brackets = {"array": self._array, "object": self._object}
        if kind in makers:
            return makers[kind](part)
        return brackets[kind](part, place.inside()) if kind in brackets else kind

    def _string(self, part: dict[str, Any]) -> str:
        form = part.get("format")
        known = FORMATS.get(form) if isinstance(form, str) else None
        if form is not None and not (self._is_lenient and known is None):
            if known is None or "minLength" in part or "maxLength" in part:
                raise FormError(f"this engine cannot be held to the schema's format {str(form)[:40]!r}")
            return self._grammar.add(f'"\\"" {known} "\\""')
        least, most = whole(part.get("minLength", 0)), part.get("maxLength")
        if most is not None and whole(most) > MOST_COPIES and self._is_lenient:
            most = None
        if not least and most is None:
            return "string"
        self._grammar.copy(max(least, whole(most or 0)))
        return self._grammar.add(f'"\\"" {repeated(CHARACTER, least, most and whole(most))} "\\""')

    def _integer(self, part: dict[str, Any]) -> str:
        given = [name for name in KINDS["integer"] if name in part]
        if not given:
            return "integer"
        lows = [part[n] + (n != "minimum") for n in ("minimum", "exclusiveMinimum") if n in part and is_whole(part[n])]
        highs = [part[n] - (n != "maximum") for n in ("maximum", "exclusiveMaximum") if n in part and is_whole(part[n])]
        step = part.get("multipleOf", 1)
        if lows and highs and max(lows) <= min(highs) <= max(lows) + MOST_NUMBERS and is_whole(step) and step > 0:
            numbers = [str(int(n)) for n in range(int(max(lows)), int(min(highs)) + 1) if n % step == 0]
            if numbers:
                return self._grammar.add(" | ".join(f'"{number}"' for number in numbers))
        if lows and len(given) == 1 and max(lows) in (0, 1):
            return self._grammar.add('"0" | [1-9] [0-9]*' if max(lows) == 0 else "[1-9] [0-9]*")
        if self._is_lenient:
            return "integer"
        bounds = ", ".join(given)
        raise FormError(f"this engine cannot be held to an integer's {bounds}: at most {MOST_NUMBERS} values are told")

    def _array(self, part: dict[str, Any], place: Place) -> str:
        least, most = whole(part.get("minItems", 0)), part.get("maxItems")
        most = None if most is None else whole(most)
        first = part.get("prefixItems", [])
        if not isinstance(first, list) or (most is not None and most < least):
            raise FormError("the schema's arrays cannot be: see prefixItems, minItems and maxItems")
        leading = [self._of(each, place) for each in first[:most]]
        if part.get("items", True) is False:
            if least > len(leading):
                raise FormError("the schema's items are false, and its minItems asks for more")
            rest = []
        else:
            item = self._of(part.get("items", True), place)
            count = len(leading)
            bound = None if most is None else most - count
            rest = [self._rest(item, max(least - count, 0), bound, bool(leading))]
        return self._grammar.add(" ".join(['"["', *with_commas(leading), *rest, '"]"']))

    def _rest(self, item: str, least: int, most: int | None, has_leading: bool) -> str:
        """The elements behind the leading ones."""
        following = f'", " {item}'
        if has_leading:
            return repeated(following, least, most)
        if most == 0:
            return '""'
        more = repeated(following, max(least - 1, 0), None if most is None else most - 1)
        return f"{item} {more}" if least else f"({item} {more})?"

    def _object(self, part: dict[str, Any], place: Place) -> str:
        properties, required = part.get("properties", {}), part.get("required", [])
        is_list = isinstance(required, list) and all(isinstance(name, str) for name in required)
        if not isinstance(properties, dict) or not is_list:
            raise FormError("the schema's properties or required are no object and no list of names")
        members = {**properties, **{name: True for name in required if name not in properties}}
        if not members:
            more = part.get("additionalProperties", True)
            if more is False:
                return '"{}"'
            member = f'string ": " {self._of(more, place)}'
            return self._grammar.add(f'"{{" ({member} (", " {member})*)? "}}"')
        texts = [f"{literal(json.dumps(name) + ': ')} {self._of(members[name], place)}"
                 for name in members]  # fmt: skip
        inner = self._members(texts, [name in required for name in members])
        return self._grammar.add(f'"{{" {inner} "}}"')

    def _members(self, texts: list[str], needed: list[bool]) -> str:
        """An object's members in their order: from each place on those that follow another one, and those that come
        first."""
        following, first = "", ""
        for text, is_needed in zip(reversed(texts), reversed(needed), strict=True):
            begun = f"{text} {following}".rstrip()
            first = begun if is_needed else f"{begun} | {first}" if first else f"({begun})?"
            first = self._grammar.add(first)
            member = f'", " {text}' if is_needed else f'(", " {text})?'
            following = self._grammar.add(f"{member} {following}".rstrip())
        return first


def with_commas(items: list[str]) -> list[str]:
    """Elements that follow each other."""
    return [part for index, item in enumerate(items) for part in ([item] if index == 0 else ['", "', item])]


def is_whole(value: Any) -> bool:
    """Whether it is a number without a fraction, in the range of a computer's."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 2**53 and int(value) == value


def whole(value: Any) -> int:
    """A bound on a length; raises `FormError` for what is none."""
    if not is_whole(value) or value < 0:
        raise FormError(f"the schema has {str(value)[:40]!r} for a length")
    return int(value)
