"""Bodies are read as clients mean them, and what cannot be meant is refused with its field."""

import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from nimble_coder.contract.bounds import Bounds
from nimble_coder.contract.fields import SCALARS
from nimble_coder.contract.request import RequestError, Sampling
from nimble_coder.gateway.apis.routes import ROUTES
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.reading import decode, whole_characters
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.gateway.requests.schemas.completion import CompletionRequest
from nimble_coder.gateway.requests.schemas.tokens import DetokenizeRequest

REQUIRED: dict[str, Any] = {"prompt": "x", "messages": [], "tokens": [], "input": "x"}
BODIES = {route.body for route in ROUTES if route.body}


def takes_integers(spec: dict[str, Any]) -> bool:
    return any(part.get("type") == "integer" for part in spec.get("anyOf", [spec]))


def integer_fields() -> list[tuple[type[Struct], str]]:
    """Every field of every body that may be an integer."""
    found = []
    for kind in sorted(BODIES, key=lambda kind: kind.__name__):
        (_,), components = msgspec.json.schema_components([kind])
        properties = components[kind.__name__]["properties"]
        found += [(kind, name) for name, spec in properties.items() if takes_integers(spec)]
    return found


def body_of(kind: type[Struct], fields: dict[str, Any]) -> bytes:
    needed = {name: REQUIRED[name] for name in REQUIRED if name in kind.__struct_fields__}
    return json.dumps({**needed, **fields}).encode()


def test_there_are_integer_fields() -> None:
    assert {(CompletionRequest, "max_tokens"), (ChatRequest, "n"), (CompletionRequest, "seed")} <= set(integer_fields())


@pytest.mark.parametrize(("kind", "name"), integer_fields())
def test_an_integer_may_be_written_as_a_float(kind: type[Struct], name: str) -> None:
    assert decode(kind, body_of(kind, {name: 2.0})) == decode(kind, body_of(kind, {name: 2}))
    with pytest.raises(ApiError, match=rf"^{name} is a number: send .*a whole number") as caught:
        decode(kind, body_of(kind, {name: 2.5}))
    assert (caught.value.status, caught.value.param) == (400, name)


@pytest.mark.parametrize("value", ["16", "16.0", True, [16.0], 1e30, 2**63, -3.0])
def test_what_is_no_such_integer_is_refused(value: object) -> None:
    with pytest.raises(ApiError) as caught:
        decode(CompletionRequest, body_of(CompletionRequest, {"max_tokens": value}))
    assert (caught.value.status, caught.value.param) == (400, "max_tokens")


@pytest.mark.parametrize("offered", [{"tools": [{"function": {"name": ""}}]}, {"functions": [{"name": ""}]}])
def test_a_function_needs_a_name(offered: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="name is out of bounds: send a text of length >= 1") as refused:
        decode(ChatRequest, body_of(ChatRequest, offered))
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("kind", "body", "message", "param"),
    [
        (CompletionRequest, "", "the body is empty: send a JSON object", None),
        (ChatRequest, " \n", "the body is empty: send a JSON object", None),
        (CompletionRequest, "[]", "the body is a list: send an object", None),
        (CompletionRequest, '{"prompt": {}}', "prompt is an object: send a text or a list or null", "prompt"),
        (
            CompletionRequest,
            '{"max_tokens": -3}',
            "max_tokens is out of bounds: send a whole number >= -2",
            "max_tokens",
        ),
        (CompletionRequest, '{"max_tokens": 1e400}', "max_tokens: Number out of range", "max_tokens"),
        (ChatRequest, '{"messages": [{"role": 1e400}]}', "messages[0].role: Number out of range", "messages[0].role"),
        (CompletionRequest, '{"echo": "yes"}', "echo is a text: send true or false or null", "echo"),
        (ChatRequest, "{}", "messages is missing: send it", "messages"),
        (ChatRequest, '{"messages": [{}]}', "messages[0].role is missing: send it", "messages[0].role"),
        (ChatRequest, '{"messages": [{"role": null}]}', "messages[0].role is null: send a text", "messages[0].role"),
        (CompletionRequest, '{"zzz": ' + "[" * 100_000, "the body is nested too deeply", None),
        (CompletionRequest, '{"prompt": "a\udcff"}', "the body is not UTF-8: byte 1 of a text is 0xff", None),
    ],
)
def test_what_is_wrong_is_said_in_words(kind: type[Struct], body: str, message: str, param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        decode(kind, body.encode(errors="surrogateescape"))
    assert (caught.value.status, caught.value.message, caught.value.param) == (400, message, param)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (r"\ud83d", "\ufffd"),
        (r"\ud83d x", "\ufffd x"),
        (r"\uDE00x\n", "\ufffdx\n"),
        (r"\ud83d\n", "\ufffd\n"),
        (r"\ud83d\u0041", "\ufffdA"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
        (r"\ud83d\ud83d\ude00\ude00", "\ufffd\U0001f600\ufffd"),
        (r"\ud83d\ude00\ud83d\ude00", "\U0001f600\U0001f600"),
        (r"\\ud83d\\\ud83d", "\\ud83d\\\ufffd"),
        (r"\\ud83d\ude00", "\\ud83d\ufffd"),
        (r"\\\\\ude00", "\\\\\ufffd"),
        (r"\n\ude00\t", "\n\ufffd\t"),
        (r"\ud83d\\ude00", "\ufffd\\ude00"),
    ],
)
def test_half_of_a_character_is_read_as_one_that_nobody_knows(sent: str, read: str) -> None:
    body = whole_characters(f'{{"prompt": "{sent}", "stop": ["{sent}"]}}'.encode())
    asked = decode(CompletionRequest, body)
    assert (asked.prompt, asked.stop) == (read, [read])


def test_integers_in_lists_may_be_written_so_too() -> None:
    asked = decode(CompletionRequest, b'{"prompt": [1.0, 2, 3e0], "lookahead": [4.0, 3, 4.0], "temperature": 1.0}')
    assert (asked.prompt, asked.lookahead, asked.temperature) == ([1, 2, 3], [4, 3, 4], 1.0)
    assert decode(DetokenizeRequest, b'{"tokens": [7.0]}').tokens == [7]


def test_other_numbers_stay_as_they_are() -> None:
    asked = decode(CompletionRequest, b'{"prompt": "x", "max_tokens": 16.0, "temperature": 0.25, "top_p": 1}')
    assert (asked.temperature, asked.top_p) == (0.25, 1.0)
    assert isinstance(asked.top_p, float)


@pytest.mark.parametrize(
    ("name", "bounds"), [(name, s.bounds) for name, s in SCALARS.items() if s.api or name == "temperature"]
)
def test_sampling_numbers_have_the_engines_bounds(name: str, bounds: Bounds) -> None:
    for value in bounds:
        field: dict[str, Any] = {name: value}
        decode(CompletionRequest, body_of(CompletionRequest, field))
        Sampling(**field)
    for value in (bounds.least - 0.1, bounds.most + 0.1):
        field = {name: value}
        with pytest.raises(ApiError, match=name):
            decode(CompletionRequest, body_of(CompletionRequest, field))
        with pytest.raises(RequestError, match=name):
            Sampling(**field)


def test_the_gateway_takes_nothing_of_the_engine_that_needs_pytorch() -> None:
    without = "import sys; sys.modules['torch'] = None; import nimble_coder.gateway.server"
    subprocess.run([sys.executable, "-c", without], check=True)


def test_null_is_absent_at_any_depth() -> None:
    for body in BODIES:
        _, components = msgspec.json.schema_components([body])
        for kind, spec in components.items():
            for name, part in spec["properties"].items():
                takes_null = not part or any(each.get("type") == "null" for each in part.get("anyOf", [part]))
                is_needed = name in spec.get("required", ()) or (kind, name) == ("Tool", "function")
                assert is_needed or takes_null, (kind, name)
