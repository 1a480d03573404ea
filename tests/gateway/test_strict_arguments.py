"""A strict function's call has its schema, whatever that is, or is text."""

import json
from dataclasses import replace
from typing import Any

import pytest

from nimble_coder.gateway.answers.strict_arguments import StrictArguments
from tests.gateway.calls import (
    CALLING,
    OTHER,
    parse_by,
    wanted,
)

STRICT = {
    "type": "object",
    "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}, "day": {"type": "string", "format": "date"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "form", ["{}", "```json\n{}\n```", "```\n[{}]\n```", "<tools>{}</tools>", "So:\n{}\nThat is it."]
)
@pytest.mark.parametrize(
    ("arguments", "is_allowed"),
    [
        ('{"city": "Rome"}', True),
        ('{"day": "2026-11-26", "city": "Rome"}', True),
        ("{}", False),
        ('{"city": 1}', False),
        ('{"city": "rome"}', False),
        ('{"city": "Rome", "day": "today"}', False),
        ('{"city": "Rome", "more": 1}', False),
    ],
)
def test_a_strict_functions_call_has_its_schema_or_is_text(form: str, arguments: str, is_allowed: bool) -> None:
    markup = f'{{"name": "get_weather", "arguments": {arguments}}}'
    text = form.replace("{}", markup)
    around = form.partition("{}") if form.startswith("So") else ("", "", "")
    shown = around[0] + around[2]
    wants = (shown, wanted(markup)) if is_allowed else (text, [])
    for is_strict in (True, False):
        strict = StrictArguments([("get_weather", STRICT, is_strict), ("add", None, False)])
        calling = replace(CALLING, strict=strict)
        for pieces in ([text], list(text)):
            found, parser = parse_by(calling, pieces)
            assert found == (wants if is_strict else (shown, wanted(markup)))
            assert parser.reason("stop") == ("tool_calls" if found[1] else "stop")
    assert parse_by(replace(CALLING, strict=strict), [OTHER])[0] == ("", wanted(OTHER))


BAD_SCHEMAS: dict[str, dict[str, Any]] = {
    "no schema": {"type": "objekt"},
    "looks around": {"properties": {"a": {"pattern": "(?=a)"}}},
    "too large an automaton": {"properties": {"a": {"pattern": "(a{1,1000}){1,1000}"}}},
    "too many patterns": {"properties": {f"p{number}": {"pattern": "a"} for number in range(65)}},
    "too long": {"description": "a" * 70_000},
    "somewhere else": {"$ref": "http://127.0.0.1:1/schema.json"},
    "a file": {"$ref": "file:///etc/hostname"},
    "a place of its own": {"properties": {"a": {"$id": "x", "$ref": "#/a"}}},
    "an anchor": {"properties": {"a": {"$ref": "#x"}}, "$defs": {"x": {"$anchor": "x"}}},
    "a place of its own in draft 4": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "properties": {"a": {"id": "http://a/x", "$ref": "#/a"}},
        "a": {},
    },
    "another draft's place": {
        "properties": {
            "a": {"$schema": "http://json-schema.org/draft-04/schema#", "id": "http://a/x", "allOf": [{"$ref": "#/a"}]}
        },
        "a": {},
    },
    "a reference that moves": {"properties": {"a": {"$dynamicRef": "#"}}},
    "what is left over": {"allOf": [{"type": "object"}], "unevaluatedProperties": False},
    "what is left over of a list": {"properties": {"a": {"unevaluatedItems": False}}},
}


@pytest.mark.parametrize("name", BAD_SCHEMAS)
def test_what_cannot_be_checked_is_said_and_no_call(name: str) -> None:
    strict = StrictArguments([("add", BAD_SCHEMAS[name], True)])
    with pytest.raises(ValueError, match="the parameters of 'add'"):
        strict.check()
    assert parse_by(replace(CALLING, strict=strict), [OTHER])[0] == (OTHER, [])


def doubling(levels: int) -> dict[str, Any]:
    """A schema by which a validator looks at a value twice as often with each level."""
    names = [(f"#/$defs/d{level + 1}", f"#/%24defs/d{level + 1}") for level in range(levels)]
    parts = {f"d{level}": {"allOf": [{"$ref": name} for name in two]} for level, two in enumerate(names)}
    return {"$ref": "#/$defs/d0", "$defs": {**parts, f"d{levels}": {"type": "object"}}}


TWICE = {"properties": {"a": {"$ref": "#"}}}


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        (doubling(40), {"a": 1}),
        ({"allOf": [TWICE, TWICE], "type": "object"}, json.loads('{"a": ' * 40 + "{}" + "}" * 40)),
        ({"items": {"enum": []}, "allOf": [{"$ref": "#/x/0"}], "x": [{"minProperties": 2}]}, {"a": 1}),
        ({**doubling(40), "$ref": "#/a", "a": {"propertyNames": {"$ref": "#/$defs/d0"}}}, {"a": 1}),
        (
            json.loads(
                json.dumps(doubling(40)).replace("/$defs", "/").replace("/%24defs", "/").replace('"$defs"', '""')
            ),
            {"a": 1},
        ),
    ],
    ids=["by references", "by levels of the value", "in a list", "by names", "by a name that is empty"],
)
def test_no_schema_takes_long_and_what_would_is_no_call(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    strict = StrictArguments([("add", schema, True)])
    call = json.dumps({"name": "add", "arguments": arguments})
    assert parse_by(replace(CALLING, strict=strict), [call])[0] == (call, [])


TREE = {
    "$id": "tree",
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "left": {"$ref": "#/$defs/node"},
                "right": {"$ref": "#/$defs/node"},
            },
            "additionalProperties": False,
        }
    },
}


def test_a_recursive_schema_is_looked_at_as_often_as_its_value_is_large() -> None:
    value: dict[str, Any] = {"a": 1}
    for _ in range(8):
        value = {"a": 1, "left": json.loads(json.dumps(value)), "right": value}
    strict = StrictArguments([("add", TREE, True)])
    call = json.dumps({"name": "add", "arguments": value})
    assert parse_by(replace(CALLING, strict=strict), [call])[0] == ("", wanted(call))


def test_no_pattern_takes_long_whatever_it_is_held_against() -> None:
    strict = StrictArguments([("add", {"properties": {"a": {"pattern": "^(a+)+$"}}}, True)])
    call = json.dumps({"name": "add", "arguments": {"a": "a" * 20_000 + "!"}})
    assert parse_by(replace(CALLING, strict=strict), [call])[0] == (call, [])
