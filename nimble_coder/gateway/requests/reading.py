"""Reads a request's JSON into the type that its route has in `schemas/`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from nimble_coder.gateway.errors import ApiError

Body = TypeVar("Body", bound=Struct)
DECODERS: dict[type[Struct], msgspec.json.Decoder[Any]] = {}
KINDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
"""msgspec's names of what JSON has."""
INVALID = "invalid_json"
"""The code of an error that means that it is no JSON at all."""
PLACE = re.compile(r"(?P<fault>.*?)(?: - at `\$\.?(?P<place>[^`]*)`)?", re.DOTALL)
OTHER = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<given>[^`]*)`")
BOUND = re.compile(r"Expected `(?P<kind>\w+)` (?P<bound>.*)", re.DOTALL)
UNNAMED = "[...]"
"""What msgspec calls a key's value where it reads any object."""
SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?P<second>\\u[dD][c-fC-F][0-9a-fA-F]{2})?|[c-fC-F][0-9a-fA-F]{2})"
)
"""A surrogate's escape in JSON, with the one that makes a pair of it."""
MOST_SURROGATES = 10_000
"""So many are looked at: more take time that others wait for."""
BACKSLASH, UNKNOWN = ord("\\"), rb"\ufffd"
MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")


def whole(number: str) -> int | float:
    """A number of JSON as the integer that it is, if it is one: Lua and others write 16 as 16.0."""
    value = float(number)
    return int(value) if value.is_integer() else value


LENIENT = msgspec.json.Decoder(float_hook=whole)


def whole_characters(body: bytes) -> bytes:
    """A request's JSON with U+FFFD in place of halves of characters: JavaScript cuts texts within an
    emoji, and writes the half that is left as an escape."""

    def whole(found: re.Match[bytes]) -> bytes:
        before = found.start()
        while before and body[before - 1] == BACKSLASH:
            before -= 1
        is_text = (found.start() - before) % 2 == 1  # the backslash is one that another escapes
        if is_text:
            return found[0].replace(found["second"], UNKNOWN) if found["second"] else found[0]
        return found[0] if found["second"] else UNKNOWN

    return SURROGATE.sub(whole, body, MOST_SURROGATES)


def decode(kind: type[Body], body: bytes) -> Body:
    """Reads a request's JSON; raises `ApiError` 400 naming the field, or `INVALID`."""
    check_not_empty(body)
    with json_errors():
        return read(kind, body)


def check_not_empty(body: bytes) -> None:
    """Raises `ApiError` 400 for a body in which nothing is."""
    if not body or body.isspace():
        raise ApiError(400, "the body is empty: send a JSON object", INVALID)


@contextmanager
def json_errors() -> Iterator[None]:
    """Raises `ApiError` 400 for JSON that is none, or not what was wanted."""
    try:
        yield
    except msgspec.ValidationError as error:
        raise not_wanted(str(error)) from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", INVALID) from None
    except UnicodeDecodeError as error:
        text = f"the body is not UTF-8: byte {error.start} of a text is {error.object[error.start]:#04x}"
        raise ApiError(400, text, INVALID) from None
    except msgspec.DecodeError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", INVALID) from None


def decode_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """A body's fields as they were sent; raises `ApiError` 400."""
    check_not_empty(body)
    with json_errors():
        try:
            return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return msgspec.json.decode(whole_characters(body), type=dict[str, msgspec.Raw])


def decode_value(name: str, value: msgspec.Raw) -> Any:
    """What stands in a field, whatever it is; raises `ApiError` 400 naming the field."""
    with json_errors():
        try:
            return msgspec.json.decode(value)
        except msgspec.ValidationError as error:
            raise unreadable(str(error).partition(" - at ")[0], name[:80]) from None


def not_wanted(error: str) -> ApiError:
    """What msgspec says of JSON of another type, in our words: the place, what is there, and what to send."""
    found = PLACE.fullmatch(error)
    assert found  # noqa: S101 - it matches any text
    fault, place = found["fault"], found["place"] or ""
    if missing := MISSING.fullmatch(fault):
        place = f"{place}.{missing['name']}".removeprefix(".")
        text = f"{place} is missing: send it"
    elif other := OTHER.fullmatch(fault):
        text = f"{place or 'the body'} is {shown(other['given'])}: send {shown(other['wanted'])}"
    elif bound := BOUND.fullmatch(fault):
        text = f"{place} is out of bounds: send {shown(bound['kind'])} {bound['bound']}"
    elif UNNAMED in place:  # of something that nobody reads
        return unreadable(fault, place.partition(UNNAMED)[0])
    else:
        text = f"{place}: {fault}" if place else fault
    return ApiError(400, text, "invalid_type", place or None)


def unreadable(fault: str, place: str) -> ApiError:
    """The refusal of what is no fault of a type: JSON has numbers that none holds."""
    text = f"{fault} in a value of {place or 'the body'}: send another one, or leave it out"
    return ApiError(400, text, "invalid_type", place or None)


def shown(kinds: str) -> str:
    """Types by what a client calls them."""
    return " or ".join(KINDS.get(kind, kind) for kind in kinds.split(" | "))


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
