"""Holds a request's fields against the table of them: what is refused, and what is ignored and said so."""

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import Raw, Struct

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.fields import FIELDS, FORM, Engine, Otherwise
from nimble_coder.gateway.requests.reading import json_errors
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.gateway.requests.schemas.completion import CompletionRequest, OllamaOptions
from nimble_coder.gateway.requests.schemas.fim import FimRequest
from nimble_coder.gateway.requests.schemas.forms import GuidedFields, StructuredOutputs
from nimble_coder.gateway.requests.schemas.llama import InfillRequest
from nimble_coder.gateway.requests.schemas.responses import ResponsesRequest, TextOptions
from nimble_coder.gateway.requests.schemas.sampling import StreamOptions

OBJECTS = frozenset(name.partition(".")[0] for name in FIELDS if "." in name)
ROUTES: dict[str, type[Struct]] = {
    "completions": CompletionRequest,
    "chat": ChatRequest,
    "responses": ResponsesRequest,
    "fim": FimRequest,
    "llama": InfillRequest,
}
INNER: dict[str, type[Struct]] = {
    "nvext": GuidedFields,
    "options": OllamaOptions,
    "stream_options": StreamOptions,
    "structured_outputs": StructuredOutputs,
    "text": TextOptions,
}
SHOWN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""Names that a header may hold."""
FORMS = frozenset(field.name for field in FORM)
UNGUIDED = ", whose lookahead cannot be guided: serve the model with the portable engine, or build it with --companion"
MOST_SHOWN = 32
DECODER = msgspec.json.Decoder(dict[str, Raw])


def honoured(kind: type[Struct]) -> frozenset[str]:
    """The names that a type of request reads, those of the objects in it included."""
    names = kind.__struct_fields__
    inner = (f"{outer}.{name}" for outer in names if outer in INNER for name in INNER[outer].__struct_fields__)
    return frozenset((*names, *inner)) - OBJECTS


HONOURED: dict[type[Struct], frozenset[str]] = {kind: honoured(kind) for kind in ROUTES.values()}


def check_fields(kind: type[Struct], body: bytes, engine: Engine, strict: bool) -> list[str]:
    """The names of what the body of a request asks for and does not get; raises `ApiError` for what is refused.

    The body must have been decoded as a `kind` before.
    """
    with json_errors():
        return list(unmet(kind, given(DECODER.decode(body)), engine, strict))


def unmet(kind: type[Struct], fields: Iterator[tuple[str, Raw]], engine: Engine, strict: bool) -> Iterator[str]:
    """The names of those of the fields that are neither honoured nor neutral; raises `ApiError`."""
    for name, value in fields:
        field = FIELDS.get(name)
        if name in HONOURED[kind] and (field is None or field.needs <= engine):
            continue
        if field and (field.otherwise is Otherwise.ACCEPTED or msgspec.json.decode(value) in field.neutral):
            continue
        if field and field.otherwise is Otherwise.REFUSED:
            raise ApiError(400, f"{name} is not available {place(kind, name)}: leave it out", "unsupported", name)
        is_checked_later = field is not None and name in HONOURED[kind] and field.needs is Engine.SAMPLING
        if strict and not is_checked_later:
            text = f"{name[:80]!r} would be ignored, and this service refuses what it would ignore: leave it out"
            raise ApiError(400, text, "unsupported", name[:80])
        yield name


def given(fields: Mapping[str, Raw], outer: str = "") -> Iterator[tuple[str, Raw]]:
    """Every field that is not null, with those of objects by their names behind the object's."""
    for name, value in fields.items():
        raw = bytes(value)
        if raw == b"null":
            continue
        if not outer and name in OBJECTS and raw.startswith(b"{"):
            yield from given(DECODER.decode(raw), f"{name}.")
        else:
            yield outer + name, value


def place(kind: type[Struct], name: str) -> str:
    """Where a refused field is not available."""
    if name in HONOURED[kind]:
        return f"with this engine{UNGUIDED if name in FORMS else ''}"
    return "on this route" if any(name in names for names in HONOURED.values()) else "in this service"


def header(ignored: Sequence[str]) -> bytes:
    """The value of `x-nimble-ignored`: names that may stand in a header, the first of them where there are many."""
    shown = [name if SHOWN.fullmatch(name) else "?" for name in ignored[:MOST_SHOWN]]
    return ", ".join([*shown, *(["..."] if len(ignored) > MOST_SHOWN else [])]).encode()
