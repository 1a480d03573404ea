"""Tool calls are found in every form that Qwen2.5-Coder writes them, and text that only looks like one stays text."""

import json

import pytest

from nimble_coder.gateway.tools import Called, ToolCallParser

CALL = '{"name": "get_weather", "arguments": {"city": "Zürich"}}'
NAMES = frozenset({"get_weather", "add"})


def parse(text: str, size: int) -> tuple[str, list[Called]]:
    parser = ToolCallParser(NAMES)
    shown = "".join(parser.push(text[i : i + size]) for i in range(0, len(text), size))
    rest, calls = parser.finish()
    return shown + rest, calls


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (CALL, ""),
        (f"\n{CALL}\n", "\n"),
        (f"<tool_call>\n{CALL}\n</tool_call>", ""),
        (f"<tool_call>\n{CALL}", ""),
        (f"<tools>{CALL}</tools>", ""),
        (f"```json\n{CALL}\n```", ""),
        (f"Let me look.\n<tool_call>\n{CALL}\n</tool_call>", "Let me look.\n"),
        (f"[{CALL}]", ""),
        (f'{{"type": "function", "function": {CALL}}}', ""),
    ],
)
def test_every_form_is_a_call(text: str, shown: str, size: int) -> None:
    said, calls = parse(text, size)
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("get_weather", {"city": "Zürich"})]
    assert said.strip() == shown.strip()


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "plain text < with { brackets",
        "```python\nprint(1)\n```\ndone",
        '{"name": "unknown", "arguments": {}}',
        '{"key": 1}',
        "<tool_call>not json</tool_call>",
        "{" * 2000,
        "",
    ],
)
def test_anything_else_stays_text(text: str, size: int) -> None:
    assert parse(text, size) == (text, [])


def test_several_calls() -> None:
    text = f'<tool_call>{CALL}</tool_call>\n<tool_call>{{"name": "add", "arguments": {{"a": 1}}}}</tool_call>'
    _, calls = parse(text, 4)
    assert [call.name for call in calls] == ["get_weather", "add"]
    assert parse(f"{CALL}\n{CALL}", 5)[1] == [calls[0], calls[0]]
