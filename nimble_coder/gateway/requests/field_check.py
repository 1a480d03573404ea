"""Holds a request's fields against the table of them: what is refused, and what is ignored and said so."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.inspect import ListType, StructType, Type, UnionType, type_info

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.fields import FIELDS, FORM, Engine, Otherwise
from nimble_coder.gateway.requests.reading import decode_fields, decode_value
from nimble_coder.gateway.requests.schemas.chat import TEXT_PARTS, ChatRequest
from nimble_coder.gateway.requests.schemas.completion import CompletionRequest
from nimble_coder.gateway.requests.schemas.fim import FimRequest
from nimble_coder.gateway.requests.schemas.llama import InfillRequest, LlamaRequest
from nimble_coder.gateway.requests.schemas.responses import ITEMS, ResponsesRequest
from nimble_coder.gateway.requests.schemas.tokens import DetokenizeRequest, TokenizeRequest

OBJECTS = frozenset(name.partition(".")[0] for name in FIELDS) - FIELDS.keys()
"""Fields that only hold others, which the table has one by one."""
ROUTES: dict[str, type[Struct]] = {
    "completions": CompletionRequest,
    "chat": ChatRequest,
    "responses": ResponsesRequest,
    "fim": FimRequest,
    "infill": InfillRequest,
    "llama": LlamaRequest,
}
"""Those that generate. A prompt is rendered from the body that would be answered."""
SHOWN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""Names that a header may hold."""
FORMS = frozenset(field.name for field in FORM)
UNGUIDED = ", whose lookahead cannot be guided: serve the model with the portable engine, or build it with --companion"
MOST_SHOWN = 32
KINDS: dict[str, tuple[str, ...]] = {
    "messages.content": TEXT_PARTS,
    "messages.tool_calls": ("function",),
    "tools": ("function",),
    "input": ITEMS,
    "input.content": TEXT_PARTS,
    "input.output": TEXT_PARTS,
}
"""The types of objects in a list that are read. One of another type is refused later, with a text that says why."""
NULL = b"null"
NOTHING: tuple[Any, ...] = ("", [], {}, False)
"""What SDKs write inside messages and tools where there is nothing to say, beside null."""


@cache
def reads(kind: type[Struct]) -> dict[str, type[Struct] | None]:
    """What a type reads, by name, and the type of the objects in it, alone or in a list."""
    return {field.encode_name: next(objects(type_info(field.type)), None) for field in msgspec.structs.fields(kind)}


def objects(of: Type) -> Iterator[type[Struct]]:
    """The type of the objects within another type: msgspec allows one."""
    match of:
        case UnionType(types=types):
            for each in types:
                yield from objects(each)
        case ListType(item_type=item):
            yield from objects(item)
        case StructType(cls=kind):
            yield kind


def honoured(kind: type[Struct], outer: str = "") -> Iterator[str]:
    """The names that a type reads, those of the objects in it by their names behind the object's."""
    for name, inner in reads(kind).items():
        yield outer + name
        if inner:
            yield from honoured(inner, f"{outer}{name}.")


BODIES: tuple[type[Struct], ...] = (*ROUTES.values(), TokenizeRequest, DetokenizeRequest)
HONOURED: dict[type[Struct], frozenset[str]] = {kind: frozenset(honoured(kind)) - OBJECTS for kind in BODIES}


def check_fields(kind: type[Struct], body: bytes, engine: Engine, strict: bool) -> list[str]:
    """The names of what the body of a request asks for and does not get; raises `ApiError` for what is refused.

    The body must have been decoded as a `kind` before.
    """
    fields = given(kind, {name: looked_at(kind, name, value, engine) for name, value in decode_fields(body).items()})
    return list(dict.fromkeys(unmet(kind, fields, engine, strict)))


def looked_at(kind: type[Struct], name: str, value: msgspec.Raw, engine: Engine) -> Any:
    """What stands in a field; as it was sent where nothing but its name matters. To read millions of numbers a second
    time keeps everybody waiting, in a thread too."""
    field = FIELDS.get(name)
    is_honoured = name in HONOURED[kind] and (field is None or field.needs <= engine)
    is_named_only = (is_honoured or field is None) and not (reads(kind).get(name) or name in OBJECTS)
    return value if is_named_only and bytes(memoryview(value)[: len(NULL) + 1]) != NULL else decode_value(name, value)


def unmet(kind: type[Struct], fields: Iterator[tuple[str, Any]], engine: Engine, strict: bool) -> Iterator[str]:
    """The names of those of the fields that are neither honoured nor neutral; raises `ApiError`."""
    for name, value in fields:
        field = FIELDS.get(name)
        if name in HONOURED[kind] and (field is None or field.needs <= engine):
            continue
        if field and (field.otherwise is Otherwise.ACCEPTED or is_among(value, field.neutral)):
            continue
        if field is None and "." in name and is_among(value, NOTHING):
            continue
        if field and field.otherwise is Otherwise.REFUSED:
            raise ApiError(400, f"{name} is not available {place(kind, name)}: leave it out", "unsupported", name)
        is_checked_later = field is not None and name in HONOURED[kind] and field.needs is Engine.SAMPLING
        yield name if is_checked_later else passed_over(name, strict)


def passed_over(name: str, strict: bool) -> str:
    """The name of what is ignored; raises `ApiError` where nothing may be."""
    if strict:
        text = f"{name[:80]!r} would be ignored, and this service refuses what it would ignore: leave it out"
        raise ApiError(400, text, "unsupported", name[:80])
    return name


def is_among(value: Any, values: Sequence[Any]) -> bool:
    """Whether it is one of them, as JSON tells them apart: in Python 0 is false and 1 is true."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)


def given(kind: type[Struct] | None, fields: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    """Every field that is not null, and what stands in it where its type reads that, by names behind the object's."""
    types = reads(kind) if kind else {}
    for key, value in fields.items():
        name, inner = outer + key, types.get(key)
        if value is None:
            continue
        is_object = name in OBJECTS and isinstance(value, dict)
        if not is_object:
            yield name, value
        if inner or is_object:
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict) and is_read(name, each):
                    yield from given(inner, each, f"{name}.")


def is_read(name: str, fields: Mapping[str, Any]) -> bool:
    """Whether an object in a list is of a type that is read there."""
    kind = fields.get("type")
    return kind is None or name not in KINDS or kind in KINDS[name]


def place(kind: type[Struct], name: str) -> str:
    """Where a refused field is not available."""
    if name in HONOURED[kind]:
        return f"with this engine{UNGUIDED if name in FORMS else ''}"
    return "on this route" if any(name in names for names in HONOURED.values()) else "in this service"


def header(ignored: Sequence[str]) -> bytes:
    """The value of `x-nimble-ignored`: names that may stand in a header, the first of them where there are many."""
    shown = [name if SHOWN.fullmatch(name) else "?" for name in ignored[:MOST_SHOWN]]
    return ", ".join([*shown, *(["..."] if len(ignored) > MOST_SHOWN else [])]).encode()
