"""What the end of an answer cuts of a call, or of what may be one, and why the answer ended."""

import pytest

from nimble_coder.gateway.answers.bodies.completion import FinishReason
from nimble_coder.gateway.answers.calling import Calling
from tests.gateway.calls import CALL, CALLING, CODE, OTHER, UNKNOWN, answer_of, parse_anyhow, wanted


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
