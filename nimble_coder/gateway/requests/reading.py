"""Reads a request's JSON into the type that its route has in `schemas/`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from nimble_coder.gateway.errors import ApiError

Body = TypeVar("Body", bound=Struct)
DECODERS: dict[type[Struct], msgspec.json.Decoder[Any]] = {}


def whole(number: str) -> int | float:
    """A number of JSON as the integer that it is, if it is one: Lua and others write 16 as 16.0."""
    value = float(number)
    return int(value) if value.is_integer() else value


LENIENT = msgspec.json.Decoder(float_hook=whole)


def decode(kind: type[Body], body: bytes) -> Body:
    """Reads a request's JSON; raises `ApiError` 400 naming the field."""
    with json_errors():
        return read(kind, body)


@contextmanager
def json_errors() -> Iterator[None]:
    """Raises `ApiError` 400 for JSON that is none, or not what was wanted."""
    try:
        yield
    except msgspec.ValidationError as error:
        _, _, place = str(error).partition(" - at `$.")
        raise ApiError(400, str(error), "invalid_type", place.rstrip("`") or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", "invalid_json") from None


def read(kind: type[Body], body: bytes) -> Body:
    """Reads it once as it should be, and again where a number was in the way of an integer."""
    decoder = DECODERS.get(kind)
    if decoder is None:
        decoder = DECODERS[kind] = msgspec.json.Decoder(kind)
    try:
        value: Body = decoder.decode(body)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
        value = msgspec.convert(LENIENT.decode(body), kind)
    return value
