"""Tool calls are found in every form that Qwen2.5-Coder writes them, and text that only looks like one stays text."""

import json
import re
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimble_coder.gateway.answers.tools import ToolCallParser
from tests.gateway.calls import (
    CALL,
    CALLING,
    CODE,
    OTHER,
    UNKNOWN,
    parse,
    parse_anyhow,
    wanted,
)


def shown_at_once(text: str) -> list[str]:
    """What each character lets out."""
    parser = ToolCallParser(CALLING)
    return ["".join(piece.text for piece in parser.push(character)) for character in text]


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
