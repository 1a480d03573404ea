"""What a schema holds as a value is no schema, whatever it looks like; what it holds under a client's name is one."""

import json
from typing import Any

import pytest

from nimble_coder.engine.form import check_schema
from nimble_coder.gateway.answers.bodies.chat import CalledFunction
from nimble_coder.gateway.answers.strict_arguments import StrictArguments
from tests.engine.test_schema_numbers import Written

REFERENCE = {"$ref": "elsewhere.json#/a"}
KEYWORDS = ["const", "enum", "default", "examples", "allOf", "anyOf", "properties", "$ref", "$id", "$defs", "pattern"]
LARGE = {"type": "integer", "maximum": 2**64}
SLOW = {"type": "string", "allOf": [{"pattern": f"^.*a{i}.*$"} for i in range(8)]}


def within(name: str, inner: Any) -> dict[str, Any]:
    """A schema with another one under a property of that name."""
    return {"type": "object", "properties": {name: inner}, "required": [name], "additionalProperties": False}


@pytest.mark.parametrize("value", [REFERENCE, {"a": [REFERENCE]}, {"$id": "x", "maximum": -(10**19)}])
def test_a_value_may_look_like_a_reference(value: Any) -> None:
    for held in ({"const": value}, {"enum": [1, value]}):
        if "$ref" in str(value):
            assert json.dumps(value) in Written(held)
            assert json.dumps(value) in Written(held, lark=True)
    for named in ({"default": value}, {"examples": [value]}):
        assert "7" in Written({"type": "integer", **named})


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_property_called_like_a_keyword_is_a_schema(name: str) -> None:
    assert f'{{"{name}": 7}}' in Written(within(name, {"$ref": "#/$defs/a"}) | {"$defs": {"a": LARGE}})
    for wrong in (REFERENCE, SLOW, {"multipleOf": 1009}, {"const": 2**64}, {"maximum": -(10**19)}):
        for schema in (within(name, wrong), {"$defs": {name: wrong}, "anyOf": [{"$ref": f"#/$defs/{name}"}, {}]}):
            with pytest.raises(ValueError, match=r"."):
                check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/default", "default": SLOW},
        {"$ref": "#/const/a", "const": {"a": SLOW}},
        {"anyOf": [{"$ref": "#/enum/0"}], "enum": [SLOW]},
        {"$ref": "#/$defs", "$defs": {"allOf": SLOW["allOf"]}},
        {"$ref": "#/a/properties", "a": within("allOf", {})},
    ],
)
def test_no_reference_makes_a_schema_of_what_is_none(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not in the schema"):
        check_schema(schema)


def test_strict_arguments_may_have_such_names_and_values() -> None:
    schema = within("unevaluatedItems", {"const": REFERENCE}) | {"default": {"$dynamicRef": "#a"}}
    strict = StrictArguments([("f", schema, True)])
    strict.check()
    assert strict.allow(CalledFunction("f", json.dumps({"unevaluatedItems": REFERENCE})))
    assert not strict.allow(CalledFunction("f", json.dumps({"unevaluatedItems": {}})))
