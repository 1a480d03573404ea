"""Every field inside of messages, tools and forms meets its fate too."""

import copy
import json
from typing import Any

import httpx
import pytest

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.field_check import check_fields
from nimble_coder.gateway.requests.fields import INSIDE, TOOL, Engine, Field
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.gateway.requests.schemas.responses import ResponsesRequest
from tests.gateway.asking import SENT, fate

CALL = {"name": "now", "arguments": "{}"}
AROUND: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": ("chat", {"role": "assistant", "content": [{"text": "hi"}], "tool_calls": [{"function": CALL}]}),
    "tools": ("chat", TOOL),
    "response_format": ("chat", {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}),
    "input": ("responses", {"role": "user", "content": "hi"}),
    "input_extra": ("infill", {"text": "x = 1"}),
}
"""The routes and objects in which the fields of objects are sent."""


def with_inside(field: Field, value: Any) -> tuple[str, dict[str, Any]]:
    """A route, and a request to it with a field somewhere within it."""
    outer, *between, last = field.name.split(".")
    route, around = AROUND[outer]
    around = copy.deepcopy(around)
    place: Any = around
    for name in between:
        place = place[name][0] if isinstance(place[name], list) else place[name]
    place[last] = value
    return route, {**SENT[route][1], outer: around if outer == "response_format" else [around]}


def test_what_stands_inside_of_messages_tools_and_forms_meets_its_fate(http: httpx.Client) -> None:
    for field in INSIDE:
        for value in (field.example, *field.neutral, None):
            route, body = with_inside(field, value)
            answer = http.post(SENT[route][0], json=body)
            wanted = fate(route, field, Engine.PORTABLE) if value == field.example else "honoured"
            assert answer.status_code == (400 if wanted == "refused" else 200), (field, answer.text)
            seen = answer.headers.get("x-nimble-ignored")
            assert seen == (field.name if wanted == "ignored" else None), (field, value)


def test_what_nobody_reads_inside_is_named_once_or_strictly_refused() -> None:
    part = {"type": "text", "text": "hi", "annotations": [], "zzz": 1}
    tool = {"type": "function", "zzz": 1, "function": {"name": "a", "zzz": 1, "parameters": {"zzz": 1}}}
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": [part, part], "zzz": 1, "yyy": ""}] * 2,
        "tools": [tool],
        "functions": [{"name": "a", "zzz": 1}],
        "response_format": {"type": "json_schema", "zzz": 1, "json_schema": {"schema": {"zzz": 1}, "zzz": 1}},
        "stream_options": {"zzz": 1},
    }
    places = ["messages.content", "messages", "tools", "tools.function", "functions", "response_format"]
    named = [f"{place}.zzz" for place in (*places, "response_format.json_schema", "stream_options")]
    assert check_fields(ChatRequest, json.dumps(body).encode(), Engine.PORTABLE, False) == named
    with pytest.raises(ApiError, match=r"messages\.content\.zzz"):
        check_fields(ChatRequest, json.dumps(body).encode(), Engine.PORTABLE, True)
    result = {"messages": [{"role": "function", "name": "a", "content": "1"}]}
    assert check_fields(ChatRequest, json.dumps(result).encode(), Engine.PORTABLE, True) == []
    item = {"input": [{"type": "message", "role": "user", "content": [part]}], "text": {"format": {"zzz": 1}}}
    assert check_fields(ResponsesRequest, json.dumps(item).encode(), Engine.PORTABLE, False) == [
        "input.content.zzz",
        "text.format.zzz",
    ]


def test_what_usual_clients_send_is_no_reason_to_refuse() -> None:
    """OpenAI's SDK after `parse()`, LiteLLM, LangChain's ChatMistralAI, AutoGen and Vercel's AI SDK."""
    function = {"name": "now", "arguments": "{}", "parsed_arguments": {"a": 1}}
    call = {"id": "call_1", "type": "function", "function": function, "extra_content": {"google": {}}}
    said = {"reasoning": "Hm.", "reasoning_content": "Hm.", "provider_specific_fields": {"a": 1}}
    offered = {"name": "now", "cache_control": {"type": "ephemeral"}}
    body = {
        "messages": [
            {"role": "user", "name": "ann", "content": "hi"},
            {"role": "assistant", "id": "msg_1", "parsed": {"a": 1}, "tool_calls": [call], **said},
        ],
        "tools": [{"type": "function", "strict": True, "function": offered}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "description": "A cat."}},
        "stream_options": {"include_obfuscation": True},
        "prompt_cache_retention": "in_memory",
        "safe_prompt": False,
        "prompt_mode": None,
    }
    assert check_fields(ChatRequest, json.dumps(body).encode(), Engine.PORTABLE, True) == []


def test_false_and_what_is_empty_ask_for_nothing_inside_and_numbers_are_not_false() -> None:
    nothing: dict[str, Any] = {"a": False, "b": "", "c": [], "d": {}}
    body = {**nothing, "messages": [{"role": "user", **nothing, "e": 0}], "prompt_logprobs": 0, "n_probs": 0.0}
    named = ["a", "b", "c", "d", "messages.e", "prompt_logprobs"]
    assert check_fields(ChatRequest, json.dumps(body).encode(), Engine.PORTABLE, False) == named
