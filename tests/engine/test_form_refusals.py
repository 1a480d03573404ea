"""Forms that cannot be, or would take too long, are refused in a moment, and no others."""

import json
import re
import time
from contextlib import suppress

import numpy as np
import pytest

from nimble_coder.contract.request import MOST_GUIDE, Guide, GuideType, RequestError
from nimble_coder.engine.endless import MOST_REFERENCES
from nimble_coder.engine.form import MOST_PROPERTIES, Forms
from nimble_coder.gateway.requests.forms import call_guide, turn_guide
from tests.engine.forms import END, VOCAB

PATTERNS = [{"type": "string", "pattern": f".*a{i}.*"} for i in range(40)]


def hidden(reference: str, more: dict[str, object], place: str = "$defs", name: str | None = None) -> str:
    """Forty patterns for one string, each of which refers to the next one by something else than its place, or by one
    that is easily misread; `name` is the keyword that each is told apart by."""
    parts = {f"d{i}": {**part, "$ref": reference.format(i + 1)} for i, part in enumerate(PATTERNS)}
    named = {key: {**part, **({name: key} if name else {})} for key, part in parts.items()} | {"d40": {}}
    return json.dumps({"$ref": reference.format(0), place: named, **more})


def within(part: str, more: dict[str, object]) -> str:
    """A schema with another one in it, in which references mean places in that one."""
    return json.dumps({**more, "type": "object", "properties": {"a": json.loads(part)}, "required": ["a"]})


HIDING = {
    "anchors": hidden("#d{}", {}, name="$anchor"),
    "identifiers": hidden("d{}", {"$id": "http://a/b"}, name="$id"),
    "the whole's identifier": hidden("http://a/b#/$defs/d{}", {"$id": "http://a/b"}),
    "the whole's name": hidden("b#/$defs/d{}", {"$id": "http://a/b"}),
    "a part's identifier": within(
        hidden("#/$defs/d{}", {"$id": "http://a/c"}), {"$defs": {f"d{i}": {} for i in range(41)}}
    ),
    "a part's identifier in draft 4": within(
        hidden("#/$defs/d{}", {"id": "http://a/c"}),
        {"$schema": "http://json-schema.org/draft-04/schema#", "$defs": {f"d{i}": {} for i in range(41)}},
    ),
    "a name that is empty": hidden("#//d{}", {}, place=""),
    "a place with a sign": json.dumps(
        {"$ref": "#/a/+0", "a": [{**part, "$ref": f"#/a/+{i + 1}"} for i, part in enumerate(PATTERNS)] + [{}]}
    ),
    "a slash that is encoded": hidden("#/$defs%2Fd{}", {}),
}


@pytest.mark.parametrize("name", HIDING)
def test_no_reference_hides_what_takes_minutes(forms: Forms, name: str) -> None:
    started = time.process_time()
    for text in (HIDING[name], json.dumps({**json.loads(HIDING[name]), "x-guidance": {"lenient": True}})):
        with pytest.raises(RequestError, match=r"more than 6 patterns|is not in the schema|has it mean another place"):
            forms.open(Guide(GuideType.JSON_SCHEMA, text), {END})
    assert time.process_time() - started < 1


def test_names_that_move_no_reference_are_left_alone(forms: Forms) -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "http://a/b",
        "type": "object",
        "properties": {"id": {"$ref": "#/$defs/x"}, "$id": {"$ref": "#/%24defs/x"}},
        "required": ["id", "$id"],
        "$defs": {"x": {"$id": "x", "$anchor": "y", "type": "integer", "examples": [{"id": "z"}]}},
    }
    forms.open(Guide(GuideType.JSON_SCHEMA, json.dumps(schema)), {END})


def references(count: int) -> list[list[object]]:
    """Schemas that each refer to the next one, in lists of 400."""
    chain: list[object] = [{"allOf": [{"$ref": f"#/a/{i // 400}/{i % 400}"}]} for i in range(1, count)]
    chain.append({"type": "null"})
    return [chain[start : start + 400] for start in range(0, count, 400)]


ENDLESS = {"$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}}}
BAD = {
    "no JSON": ("json_schema", "{"),
    "no schema": ("json_schema", '"text"'),
    "endless": ("json_schema", json.dumps({**ENDLESS, "$ref": "#/$defs/a"})),
    "refers to itself": ("json_schema", '{"$ref": "#"}'),
    "refers to nothing": ("json_schema", '{"$ref": "#/$defs/a"}'),
    "a keyword": ("json_schema", '{"not": {"type": "string"}}'),
    "an unknown type": ("json_schema", '{"type": "strin"}'),
    "nothing has it": ("json_schema", '{"type": "integer", "minimum": 2, "maximum": 1}'),
    "too deep": ("json_schema", '{"items":' * 5000 + "{}" + "}" * 5000),
    "too large": ("json_schema", json.dumps({"enum": ["x" * 1_000_000]})),
    "many properties": ("json_schema", json.dumps({"properties": {f"k{i}": {} for i in range(6000)}})),
    "patterns at once": (
        "json_schema",
        json.dumps({"allOf": [{"type": "string", "pattern": f".*a{i}"} for i in range(40)]}),
    ),
    "patterns of a member": (
        "json_schema",
        json.dumps({"allOf": [{"properties": {"a": {"type": "string", "pattern": f".*a{i}.*"}}} for i in range(40)]}),
    ),
    "patterns in a chain": (
        "json_schema",
        json.dumps(
            {
                "$ref": "#/$defs/d0",
                "$defs": {
                    f"d{i}": {"type": "string", "pattern": f".*a{i}.*", "$ref": f"#/$defs/d{i + 1}"} for i in range(40)
                },
            }
        ),
    ),
    "a large multiple": ("json_schema", '{"type": "integer", "multipleOf": 999983}'),
    "a fine multiple": ("json_schema", '{"type": "number", "multipleOf": 0.0999983}'),
    "a huge multiple": ("json_schema", '{"type": "integer", "multipleOf": 1e17}'),
    "multiples at once": (
        "json_schema",
        json.dumps({"allOf": [{"type": "integer", "multipleOf": m} for m in (97, 89)]}),
    ),
    "a regex": ("regex", "(a"),
    "looks around": ("regex", "(?=a)b"),
    "refers back": ("regex", r"(a)\1"),
    "matches nothing": ("regex", r"[^\s\S]"),
    "nested": ("regex", "(" * 20_000 + "a" + ")" * 20_000),
    "a grammar": ("ebnf_grammar", "root ::= missing"),
    "a grammar's syntax": ("ebnf_grammar", "root = 1"),
    "a deep grammar": ("ebnf_grammar", "root ::= " + "(" * 20_000),
    "lark": ("lark", "start: foo"),
    "a chain of rules": (
        "ebnf_grammar",
        "root ::= r0\n" + "\n".join(f'r{i} ::= "a" r{i + 1} | "b"' for i in range(2400)) + '\nr2400 ::= "c"',
    ),
    "a text without an end": ("lark", 'start: "' + '\\"' * 30_000),
    "a regular expression without an end": ("lark", "start: " + "/\\" * 30_000),
    "references in a chain": ("json_schema", json.dumps({"$ref": "#/a/0/0", "a": references(600)})),
    "endless in every place": (
        "json_schema",
        json.dumps(
            {
                "$ref": "#/b",
                "b": {"allOf": [*[{}] * 2000, {"$ref": "#/b"}]},
                "c": [{"$ref": f"#/{'%63' * count}{'c' * (60 - count)}"} for count in range(60)],
                "c" * 60: {},
                "a": {str(i): {"$ref": f"#/a/{i + 1}"} for i in range(300)},
            }
        ),
    ),
    "references to a list": ("json_schema", json.dumps({"a": [1] * 6000, "anyOf": [{"$ref": "#/a"}] * 2500})),
    "the least integer": ("json_schema", f'{{"const": {-(2**63)}}}'),
    "the least integer deep": ("json_schema", f'{{"enum": [{{"a": [{-(2**63) + 100}]}}]}}'),
    "a large negative number": ("json_schema", '{"type": "integer", "enum": [-1e19, 1]}'),
    "a large integer": ("json_schema", f'{{"const": {2**63}}}'),
    "an integer between floats": ("json_schema", f'{{"enum": [1, {{"a": {2**53 + 1}}}]}}'),
    "the least integers": ("json_schema", f'{{"type": "integer", "minimum": {-(2**63)}, "maximum": {-(2**63) + 9}}}'),
    "the least integers in lark": ("lark", f'start: %json {{"const": {-(2**63)}}}'),
    "one behind what looks like a schema": ("lark", f'start: /%json "/ %json {{"const": {-(2**63)}}}'),
    "a wrong schema behind a long line": ("lark", "start: p\n" + "a" * 60_000 + '\np: %json {"$ref": "#/a"}'),
    "terminals at once": ("lark", "start: A\nA: " + " & ".join(f"/.*a{i}.*/" for i in range(40))),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_form_is_refused_within_a_second(forms: Forms, name: str) -> None:
    kind, text = BAD[name]
    started = time.process_time()
    with pytest.raises(RequestError, match="guided_decoding_guide") as caught:
        forms.open(Guide(GuideType(kind), text), {END})
    assert time.process_time() - started < 1
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"items":' * 600 + "{}" + "}" * 600, "is nested too deeply"),
        (json.dumps({"type": "integer", "minimum": 10**400}), "has a number that no float of 64 bits holds"),
    ],
)
def test_what_python_cannot_do_is_said_in_words(forms: Forms, text: str, said: str) -> None:
    with pytest.raises(RequestError, match=rf"guided_decoding_guide\) {said}$"):
        forms.open(Guide(GuideType.JSON_SCHEMA, text), {END})


def test_what_a_regular_expression_has_wrong_is_said(forms: Forms) -> None:
    with pytest.raises(RequestError, match=r"parse error: look-around, .* is not supported"):
        forms.open(Guide(GuideType.JSON_SCHEMA, '{"type": "string", "pattern": "(?=a)b"}'), {END})


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"$ref": "#/$defs/none"}, "'#/$defs/none' is not in the schema"),
        ({"$ref": "#"}, "only an endless value has it"),
        ({"$ref": "elsewhere"}, "'elsewhere' is not in the schema"),
        ({"$ref": 5}, "$ref must be a string, got 5"),
        ({"type": "nope"}, "Invalid type: nope"),
    ],
)
def test_what_a_schema_in_lark_has_wrong_is_said_by_its_rule(forms: Forms, parameters: object, why: str) -> None:
    wrong = {"type": "object", "properties": {"a": parameters}, "required": ["a"]}
    functions = [("now", None, True), ("store", wrong, True)]
    for guide, rule in (
        (turn_guide(functions, None, None), "arguments_1"),
        (call_guide(functions, False), "arguments_1"),
        (turn_guide(functions[:1], None, parameters), "answer"),
        (Guide(GuideType.LARK, f'start: "a"\n  | part\npart: %json {json.dumps(parameters, indent=1)}'), "part"),
    ):
        with pytest.raises(RequestError, match=re.escape(f"in its rule {rule}: {why}")):
            forms.open(guide, {END})


def test_a_schemas_text_may_speak_of_schemas(forms: Forms) -> None:
    for said in ("as %json is", 'as in %json {"a": 1}'):
        parameters = {"type": "object", "description": said, "properties": {"a": {"enum": [said]}}}
        forms.open(turn_guide([("store", parameters, True)], None, None), {END})


@pytest.mark.parametrize("text", ["# %json {", '// %json {"', r'/%json \{/ "%json"'])
def test_what_is_no_schema_in_lark_is_none(forms: Forms, text: str) -> None:
    forms.open(Guide(GuideType.LARK, f'start: "a" %json {{"const": 1}} {text}'), {END})


DEEP = {
    "rules": ("lark", "\n".join(["start: r0", *(f"r{i}: r{i + 1}" for i in range(3500)), 'r3500: "a"'])),
    "references": ("json_schema", json.dumps({"$ref": "#/a/0/0", "a": references(MOST_REFERENCES - 1)})),
}


@pytest.mark.parametrize("name", DEEP)
def test_a_deep_form_ends_no_process(forms: Forms, name: str) -> None:
    kind, text = DEEP[name]
    with suppress(RequestError):
        forms.open(Guide(GuideType(kind), text), {END})


def test_the_largest_form_is_compiled_within_a_second(forms: Forms) -> None:
    properties = {f"key{i}": {"type": "string", "maxLength": 9} for i in range(MOST_PROPERTIES - 40)}
    objects = {f"part{i}": {"type": "object", "properties": properties} for i in range(3)}
    text = json.dumps({"type": "object", "properties": objects})
    assert MOST_GUIDE * 0.9 < len(text) <= MOST_GUIDE
    started = time.process_time()
    forms.open(Guide(GuideType.JSON_SCHEMA, text), {END})
    assert time.process_time() - started < 1


def test_ten_thousand_values_are_compiled_within_a_second(forms: Forms) -> None:
    started = time.process_time()
    form = forms.open(Guide(GuideType.JSON_SCHEMA, json.dumps({"enum": list(range(10_000))})), {END})
    form.hold(np.zeros(VOCAB, np.float32))
    assert time.process_time() - started < 1
