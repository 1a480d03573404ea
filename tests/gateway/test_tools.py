"""Tool calls are found in every form that Qwen2.5-Coder writes them, and text that only looks like one stays text."""

import json
import re
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimble_coder.gateway.answers.bodies.chat import CalledFunction
from nimble_coder.gateway.answers.bodies.completion import FinishReason
from nimble_coder.gateway.answers.strict_arguments import StrictArguments
from nimble_coder.gateway.answers.tools import Calling, ToolCallParser, gather

CALL = '{"name": "get_weather", "arguments": {"city": "Zürich"}}'
OTHER = '{"name": "add", "arguments": {"a": 1}}'
UNKNOWN = '{"name": "unknown", "arguments": {"a": 1}}'
CODE = "```python\nx = {'a': [1]}\nprint(x)\n```\n"
CALLING = Calling(frozenset({"get_weather", "add"}))

Parsed = tuple[str, list[CalledFunction]]


def parse(pieces: list[str]) -> Parsed:
    return parse_by(CALLING, pieces)[0]


def parse_by(calling: Calling, pieces: list[str]) -> tuple[Parsed, ToolCallParser]:
    parser = ToolCallParser(calling)
    found = [piece for text in pieces for piece in parser.push(text)]
    return gather([*found, *parser.finish()]), parser


def parse_anyhow(text: str) -> Parsed:
    """What the text is, which is the same wherever it is cut."""
    whole = parse([text])
    assert parse(list(text)) == whole
    for place in range(1, len(text)):
        assert parse([text[:place], text[place:]]) == whole, place
    return whole


def shown_at_once(text: str) -> list[str]:
    """What each character lets out."""
    parser = ToolCallParser(CALLING)
    return ["".join(piece.text for piece in parser.push(character)) for character in text]


def wanted(*calls: str) -> list[CalledFunction]:
    values = [json.loads(call) for call in calls]
    return [CalledFunction(value["name"], json.dumps(value["arguments"], ensure_ascii=False)) for value in values]


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"\n{CALL}\n",
        f"<tool_call>\n{CALL}\n</tool_call>",
        f"<tool_call>\n{CALL}",
        f"{CALL}\n</tool_call>",
        f"<tools>{CALL}</tools>",
        f"```json\n{CALL}\n```",
        f"```{CALL}```",
        f"```JSON\n{CALL}",
        f"```xml\n<tool_call>\n{CALL}\n</tool_call>\n```",
        f"[{CALL}]",
        f"```json\n[\n{CALL}\n]\n```\n",
        f'{{"type": "function", "function": {CALL}}}',
        CALL.replace("arguments", "parameters"),
        f"<tool_call>\n{CALL.replace(chr(34), chr(39))}\n</tool_call>",
    ],
)
def test_every_form_is_a_call(text: str) -> None:
    assert parse_anyhow(text) == ("", wanted(CALL))


@pytest.mark.parametrize(
    "text",
    [
        "plain text < with { brackets [ and ` ticks, 1 <2, </tool_call> <tool> ``",
        CODE + "done",
        f"{CODE}{CODE}",
        f"```python\ncall = {CALL}\n```",
        UNKNOWN,
        f"It is {UNKNOWN}.",
        '{"key": 1}',
        '```json\n{"key": 1}\n```\nand more',
        '```json\n{"id": 1, "more": [2]}\n```\nand more',
        "```\n[1, 2]\n```",
        "```jsonc\n{}\n```",
        '{"name": "add", "arguments": {"a": one}} and so on',
        '{"name": "add", "arguments": {"a": NaN}}',
        '{"name": "add", "arguments": {"a": "\\ud800"}}',
        'As in {"name": "add"}.',
        'As in {"name": "add", "arguments": {"a": 1}, "x": 2}.',
        'As in {"name": "add", "arguments": "a"}.',
        "As in {'name': 'add', 'arguments': {'a': 1}}.",
        "<tool_call>not json</tool_call>",
        "<tool_call>\n{'name': 'add', 'arguments': {1, 2}}\n</tool_call>",
        "<tool_call>\n{'name': 'add', 'arguments': {'a': 1}\n</tool_call>",
        "```",
        "  \n",
        "{" * 200,
        "[" * 200,
        "",
    ],
)
def test_anything_else_stays_text(text: str) -> None:
    assert parse_anyhow(text) == (text, [])


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


@pytest.mark.parametrize("before", ["", "I look.\n", CODE])
@pytest.mark.parametrize(
    "markup",
    [
        "<tool_call>",
        "<tool_call>\n",
        '<tool_call>\n{"',
        '<tool_call>\n{"name": "add", "arguments": {"a": 1',
        '<tool_call>\n{"name": "add", "arguments": {"a": "\\u12',
        "<tool_call>\n{'name': 'add', 'arguments': {",
        '<tools>[{"name": "add"',
        '```xml\n<tool_call>\n{"name": "add"',
        "<tool_",
        "<tool_call",
    ],
)
def test_a_call_that_the_end_cuts_is_no_text(before: str, markup: str) -> None:
    assert parse_anyhow(before + markup) == (before, [])
    assert parse_anyhow(f"<tool_call>{CALL}</tool_call>\n{markup}") == ("", wanted(CALL))


@pytest.mark.parametrize("before", ["", "\n", "```json\n", "```\n"])
@pytest.mark.parametrize(
    "markup",
    [
        '{"name": "add"',
        '{"name": "add", "argu',
        '{\n  "name": "add",\n  "arguments":',
        '{"name": "add", "arguments": {"a": 1',
        '{"name": "add", "parameters": {"a": "\\u12',
        '{"name": "add", "arguments": "{\\"a',
        '[{"name": "add", "arguments": {',
    ],
)
def test_a_cut_call_without_tags_is_no_text_where_it_names_an_offered_function(before: str, markup: str) -> None:
    assert parse_anyhow(before + markup) == ("", [])
    unknown = (before + markup).replace("add", "unknown")
    assert parse_anyhow(unknown) == (unknown, [])


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "ad',
        '{"name": "add", "age": 3',
        '{"name": "add", "argued": 3',
        '{"name": "a\\qdd", "arguments": {"a": 1',
        'A person: {"name": "add"',
        'A person: {"name": "add", "arguments": "a',
        'A person: {"name": "add", "arguments": {"a": 1}, "x',
        '```python\ncall = {"name": "add", "arguments": {"a": 1',
    ],
)
def test_json_that_the_end_cuts_stays_text_where_it_need_not_be_a_call(text: str) -> None:
    assert parse_anyhow(text) == (text, [])


def test_amid_text_a_cut_call_is_no_text_once_its_arguments_have_begun() -> None:
    assert parse_anyhow('I call {"name": "add", "arguments": {"a": 1') == ("I call ", [])


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "{}\n",
        "```json\n{}\n```",
        "```json\n{}",
        "<tool_call>\n{}\n</tool_call>",
        "<tool_call>\n{}",
        "[{}]",
        "Now {}",
    ],
)
def test_a_call_that_lacks_its_last_brace_alone_is_one(form: str) -> None:
    """As Qwen2.5-Coder-0.5B writes some, and as a limit leaves others."""
    shown = "Now " if "Now" in form else ""
    assert parse_anyhow(form.replace("{}", OTHER[:-1])) == (shown, wanted(OTHER))
    unknown = form.replace("{}", UNKNOWN[:-1])
    assert parse_anyhow(unknown)[1] == []
    more = form.replace("{}", OTHER[:-1] + ' and "so" on')
    assert parse_anyhow(more)[1] == []


@pytest.mark.parametrize("form", ["{}", "```json\n{}"])
def test_behind_a_call_a_cut_one_without_tags_is_no_text_either(form: str) -> None:
    cut = form.replace("{}", OTHER[:-4])
    assert parse_anyhow(f"<tool_call>{CALL}</tool_call>\n{cut}") == ("", wanted(CALL))
    assert parse_anyhow(f"{CALL}\n{cut}") == ("", wanted(CALL))
    assert answer_of(CALLING, f"{CALL}\n{cut}", "length")[2] == "length"
    assert parse_anyhow(f'{CALL}\n{{"name": "a') == ('\n{"name": "a', wanted(CALL))


def answer_of(calling: Calling, text: str, own: FinishReason) -> tuple[str, list[CalledFunction], str]:
    """Text, calls and reason of an answer whose tokens ended for a reason of their own; the same token by token."""
    found = []
    for pieces in ([text], list(text)):
        (shown, calls), parser = parse_by(calling, pieces)
        found.append((shown, calls, parser.reason(own)))
    assert found[0] == found[1]
    return found[0]


DEMANDED = Calling(CALLING.names, '<tool_call>\n{"name": "add", "arguments":', finish_reason="stop")
RESTRICTED = Calling(CALLING.names, '<tool_call>\n{"name":')


@pytest.mark.parametrize(
    ("calling", "text", "own", "wanted"),
    [
        (DEMANDED, ' {"a": 1}}\n</tool_call>', "stop", ("", [("add", '{"a": 1}')], "stop")),
        (DEMANDED, ' {"a": 1', "length", ("", [("add", '{"a": 1')], "length")),
        (DEMANDED, ' {"a": 1}', "length", ("", [("add", '{"a": 1}')], "length")),
        (DEMANDED, ' {"a": 1}\n</tool_call>', "stop", ("", [("add", '{"a": 1}')], "stop")),
        (DEMANDED, " a: 1\n</tool_call>", "stop", ("", [("add", "a: 1")], "stop")),
        (DEMANDED, "", "length", ("", [("add", "")], "length")),
        (RESTRICTED, ' "add", "arguments": {"a": 1}}\n</tool_call>', "stop", ("", [("add", '{"a": 1}')], "tool_calls")),
        (RESTRICTED, ' "add", "arguments": {"a', "length", ("", [("add", '{"a')], "length")),
        (RESTRICTED, ' "add", "arguments": {"a', "stop", ("", [("add", '{"a')], "stop")),
        (RESTRICTED, ' "add", "arguments": {"a": 1}', "stop", ("", [("add", '{"a": 1}')], "tool_calls")),
        (RESTRICTED, ' "ad', "length", ("", [], "length")),
        (RESTRICTED, ' "other", "arguments": {}}', "stop", (' "other", "arguments": {}}', [], "stop")),
        (RESTRICTED, "", "length", ("", [], "length")),
    ],
)
def test_a_demanded_call_is_a_call_and_its_opening_never_text(
    calling: Calling, text: str, own: FinishReason, wanted: tuple[str, list[tuple[str, str]], str]
) -> None:
    shown, calls, reason = answer_of(calling, text, own)
    assert (shown, [(call.name, call.arguments) for call in calls], reason) == wanted


@pytest.mark.parametrize(
    ("behind", "most", "reason"),
    [
        ("", None, "tool_calls"),
        ("\n</tool_call>\n", None, "tool_calls"),
        ("</tool_call>\n<tool_call>", None, "length"),
        ('</tool_call>\n<tool_call>\n{"name": "add", "argu', None, "length"),
        ("</tool_call>\nAnd now", None, "length"),
        ('</tool_call>\n<tool_call>\n{"name": "add", "argu', 1, "tool_calls"),
        (f"</tool_call>\n<tool_call>{OTHER}</tool_call>", 1, "tool_calls"),
        (f"</tool_call>\n<tool_call>{OTHER}</tool_call>", 2, "tool_calls"),
    ],
)
def test_a_turn_cut_behind_its_last_call_says_so(behind: str, most: int | None, reason: str) -> None:
    calling = Calling(CALLING.names, most=most)
    _, calls, found = answer_of(calling, f"<tool_call>{CALL}{behind}", "length")
    assert found == reason
    assert len(calls) == min(behind.count(OTHER) + 1, most or 2)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Let me look.\n<tool_call>\n{CALL}\n</tool_call>", "Let me look.\n"),
        (f"Here:\n{CODE}Now I call.\n<tool_call>\n{CALL}\n</tool_call>", f"Here:\n{CODE}Now I call.\n"),
        (f"<tool_call>\n{CALL}\n</tool_call>\nThat is it.\n", "\nThat is it.\n"),
        (f"```json\n{CALL}\n```\n{CODE}", f"\n{CODE}"),
        (f"{CODE}```json\n{CALL}\n```", CODE),
        (f"{CODE}{CALL}\nand more", f"{CODE}\nand more"),
        (f"I will call {CALL}, then look.", "I will call , then look."),
    ],
)
def test_all_text_around_a_call_is_kept(text: str, shown: str) -> None:
    assert parse_anyhow(text) == (shown, wanted(CALL))


@pytest.mark.parametrize("value", ["```python\nprint()\n```", "a </tool_call> b", "}]}\\", "<tool_call>{", "\\u00e9\n"])
@pytest.mark.parametrize("form", ["{}", "```json\n{}\n```", "<tool_call>\n{}\n</tool_call>", "Now:\n{}"])
def test_an_argument_may_hold_markup(form: str, value: str) -> None:
    call = json.dumps({"name": "add", "arguments": {"code": value}})
    assert parse_anyhow(form.replace("{}", call)) == ("Now:\n" if "Now" in form else "", wanted(call))


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>{CALL}</tool_call>\n<tool_call>{OTHER}</tool_call>\n",
        f"{CALL}\n{OTHER}",
        f"[{CALL}, {OTHER}]",
        f"```json\n{CALL}\n{OTHER}\n```",
        f"```json\n{CALL}\n```\n\n```json\n{OTHER}\n```",
        f"<tools>\n{CALL}\n{OTHER}\n</tools>",
    ],
)
def test_what_separates_calls_is_no_text(text: str) -> None:
    assert parse_anyhow(text) == ("", wanted(CALL, OTHER))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"<tool_call>{UNKNOWN}</tool_call>\n<tool_call>{CALL}</tool_call>", f"<tool_call>{UNKNOWN}</tool_call>\n"),
        (f"<tool_call>{CALL}</tool_call>\n<tool_call>{UNKNOWN}</tool_call>", f"\n<tool_call>{UNKNOWN}</tool_call>"),
        (f"{UNKNOWN}\n{CALL}", f"{UNKNOWN}\n"),
        (f"[{CALL}, {UNKNOWN}]", f", {UNKNOWN}]"),
        (f"```json\n{UNKNOWN}\n{CALL}\n```", f"```json\n{UNKNOWN}\n\n```"),
    ],
)
def test_a_call_survives_an_unknown_one_beside_it(text: str, shown: str) -> None:
    assert parse_anyhow(text) == (shown, wanted(CALL))


FRAGMENTS = [
    CALL,
    OTHER,
    UNKNOWN,
    CODE,
    "<tool_call>",
    "</tool_call>",
    "<tools>",
    "```",
    "json",
    "\n",
    " ",
    ",",
    "[",
    "]",
]
FRAGMENTS += ["{", "}", '"', "'", "x", '{"name"', ': "add", "arg', "<tool_call>{'name': 'add'}</tool_call>", "\\u12"]


CUT = re.compile(r'([\s,]*(```\w*\s*)?(<tool(s|_call)>|[\s\[]*{"name").*)?', re.DOTALL)
"""What may be missing at the end of a text without calls."""


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12), st.lists(st.integers(0, 400), max_size=6))
def test_any_text_is_the_same_however_it_is_cut(fragments: list[str], cuts: list[int]) -> None:
    text = "".join(fragments)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    whole = parse([text])
    assert parse([text[start:end] for start, end in pairwise(places)]) == whole
    assert parse(list(text)) == whole
    if not whole[1]:
        assert text.startswith(whole[0])
        assert CUT.fullmatch(text[len(whole[0]) :])


def test_a_code_block_comes_step_by_step() -> None:
    said = shown_at_once(CODE + "done")
    assert said[:4] == ["", "", "", "```p"]
    assert said[4:-8] == list(CODE[4:-4])
    assert "".join(said) == CODE + "done"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("``` x", 5),
        ("```json\nx", 9),
        ('{"key', 3),
        ('```\n{"key', 7),
        ('{"name": "ge_weather"', 13),
        ("<tool_call>no", 12),
        ("<tooth", 5),
        ("See [1", 6),
    ],
)
def test_what_cannot_be_a_call_any_more_is_let_go(text: str, after: int) -> None:
    said = shown_at_once(text)
    assert "".join(said[:after]) == text[:after]
    assert said[after:] == list(text[after:])
    assert len("".join(said[: after - 1])) < after - 1


def test_a_text_full_of_brackets_takes_no_time() -> None:
    began = time.process_time()
    for text in ('{"a": [' * 20_000, "``<" * 20_000, '{"name": "add", "arguments": {' * 2_500 + "and so on and on"):
        assert parse([text]) == (text, [])
    text = '{"name": "add", "arguments": {}a' * 2_500
    assert parse([text]) == (text, [])
    assert time.process_time() - began < 5


@pytest.mark.parametrize("arguments", ["[1]", "3", '"city=Paris"', '"[1]"', '"{\\"a\\": NaN}"', '{"a": NaN}', '"{"'])
@pytest.mark.parametrize("markup", ["{}", "<tool_call>\n{}\n</tool_call>", "```json\n{}\n```", "Sure: {}"])
def test_arguments_that_are_no_object_are_never_given_as_a_call(arguments: str, markup: str) -> None:
    text = markup.replace("{}", f'{{"name": "add", "arguments": {arguments}}}')
    assert parse([text])[1] == []
    assert parse(list(text))[1] == []
