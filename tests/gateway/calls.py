"""Calls in a model's text, and what the parser makes of them."""

import json

from nimble_coder.gateway.answers.bodies.chat import CalledFunction
from nimble_coder.gateway.answers.bodies.completion import FinishReason
from nimble_coder.gateway.answers.calling import Calling
from nimble_coder.gateway.answers.tools import ToolCallParser, gather

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


def wanted(*calls: str) -> list[CalledFunction]:
    values = [json.loads(call) for call in calls]
    return [CalledFunction(value["name"], json.dumps(value["arguments"], ensure_ascii=False)) for value in values]


def answer_of(calling: Calling, text: str, own: FinishReason) -> tuple[str, list[CalledFunction], str]:
    """Text, calls and reason of an answer whose tokens ended for a reason of their own; the same token by token."""
    found = []
    for pieces in ([text], list(text)):
        (shown, calls), parser = parse_by(calling, pieces)
        found.append((shown, calls, parser.reason(own)))
    assert found[0] == found[1]
    return found[0]
