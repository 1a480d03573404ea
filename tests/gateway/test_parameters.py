"""The arguments of a function are an object, whatever its schema says."""

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.prompts.chat import calling_of
from nimble_coder.gateway.requests import parameters
from nimble_coder.gateway.requests.forms import schema_of
from nimble_coder.gateway.requests.parameters import has_other_type
from nimble_coder.gateway.requests.reading import decode
from nimble_coder.gateway.requests.schemas.chat import ChatRequest

BYTES = LLTokenizer("byte")
OBJECT = {"type": "object", "properties": {"a": {"const": 1}}}
NO_OBJECTS: dict[str, Any] = {
    "a type": {"type": "string", "maxLength": 3},
    "types": {"type": ["array", "null"]},
    "a value": {"const": 3},
    "values": {"enum": ["a", None, [1]]},
    "a reference": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array"}}},
    "choices": {"anyOf": [{"type": "string"}, {"const": 1}]},
    "one of them": {"oneOf": [False, {"type": "null"}]},
    "one of all": {"allOf": [{"type": "object"}, {"type": "string"}]},
    "a part": {"type": "object", "anyOf": [{"enum": [1]}]},
}
OBJECTS: dict[str, Any] = {
    "nothing": {},
    "an object": OBJECT,
    "properties alone": {"properties": {"a": {"const": 1}}},
    "a type that is null": {"type": None},
    "types": {"type": ["object", "null"]},
    "a choice": {"anyOf": [OBJECT, {"type": "string"}]},
    "one of them": {"oneOf": [OBJECT, {"type": "string"}]},
    "a reference": {"$ref": "#/$defs/a", "$defs": {"a": OBJECT}},
    "a reference to a choice": {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [OBJECT, {"type": "null"}]}}},
    "a recursion": {"properties": {"a": {"anyOf": [{"const": 1}, {"$ref": "#"}]}}},
    "values": {"enum": [3, {"a": 1}]},
    "a value": {"const": {"a": 1}},
}


def asked(schema: Any, **more: Any) -> ChatRequest:
    function = {"name": "now", "parameters": schema}
    return decode(ChatRequest, json.dumps({"messages": [], "tools": [{"function": function}], **more}).encode())


@pytest.mark.parametrize("name", NO_OBJECTS)
def test_a_schema_that_no_object_has_is_refused(name: str) -> None:
    for choice in ("auto", "required", "none"):
        with pytest.raises(ApiError, match="'now' are a schema that no object has") as caught:
            calling_of(asked(NO_OBJECTS[name], tool_choice=choice))
        assert (caught.value.status, caught.value.param) == (400, "tools")
    legacy = {"messages": [], "functions": [{"name": "now", "parameters": NO_OBJECTS[name]}]}
    with pytest.raises(ApiError, match="no object"):
        calling_of(decode(ChatRequest, json.dumps(legacy).encode()))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", OBJECTS)
def test_a_demanded_calls_arguments_are_an_object(name: str, strict: bool) -> None:
    calling_of(asked(OBJECTS[name]))
    schema = json.dumps(schema_of(("now", OBJECTS[name], strict)))
    matcher = LLMatcher(BYTES, LLMatcher.grammar_from_json_schema(schema), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    assert matcher.validate_tokens(list(b'{"a": 1}')) == 8
    assert [matcher.validate_tokens(list(text)) for text in (b'"a"', b"3", b"null", b"[]")] == [0] * 4


@pytest.mark.parametrize("odd", [{"type": "OBJECT"}, {"type": 5}, {"type": [{}]}, {"anyOf": 5}, {"$ref": "#"}])
def test_an_odd_schema_is_left_to_the_engine(odd: Any) -> None:
    assert calling_of(asked(odd)).names == {"now"}


def test_a_deep_schema_is_looked_into_no_further() -> None:
    deep: Any = {"type": "string"}
    for _ in range(400):
        deep = {"anyOf": [deep]}
    assert calling_of(asked(deep)).names == {"now"}


@pytest.mark.parametrize("pointer", ["#", "#/$defs/0"])
def test_references_to_one_part_do_not_multiply(pointer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def counted(part: dict[str, Any]) -> bool:
        nonlocal looked
        looked += 1
        assert looked <= 100
        return has_other_type(part)

    monkeypatch.setattr(parameters, "has_other_type", counted)
    twice = {str(number): {"allOf": [{"$ref": f"#/$defs/{number + 1}"}] * 2} for number in range(20)}
    wide = {"allOf": [{"$ref": pointer}, {"$ref": pointer}], "$defs": twice}
    assert calling_of(asked(wide)).names == {"now"}
    assert looked
