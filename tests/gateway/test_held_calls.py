"""Calls held to their functions' schemas, demanded or begun by the model itself."""

import json
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.gateway.asked_forms import CHOICE, ROUTES, SCHEMA, is_thing, tool
from tests.gateway.conftest import events

TOOLS = [tool("store", SCHEMA), tool("now"), tool("größe", {"type": "object", "properties": {}}, strict=True)]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "store"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_demanded_call_has_name_and_schema(http: httpx.Client, choice: Any, stream: bool) -> None:
    for tools in (TOOLS, TOOLS[:1]):
        for seed in range(3):
            body = {
                **ROUTES["/v1/chat/completions"],
                "tools": tools,
                "tool_choice": choice,
                "temperature": 1.0,
                "seed": seed,
                "parallel_tool_calls": seed == 0,
                "stream": stream,
                "max_tokens": 300,
            }
            answer = http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            if stream:
                chunks = [json.loads(data)["choices"][0] for data in events(answer.text)[:-1]]
                parts = [c["function"] for chunk in chunks for c in chunk["delta"].get("tool_calls") or []]
                calls = [{"function": {**parts[0], "arguments": "".join(part["arguments"] for part in parts)}}]
                reason = chunks[-1]["finish_reason"]
            else:
                (given,) = answer.json()["choices"]
                calls, reason = given["message"]["tool_calls"], given["finish_reason"]
            (call,) = calls
            function, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
            if function == "store":
                assert Draft202012Validator(SCHEMA).is_valid(arguments)
            else:
                assert function in ("now", "größe")
                assert isinstance(arguments, dict)
            assert reason == ("tool_calls" if choice == "required" else "stop")


CALLS = {"logit_bias": [["<tool_call>", 100]]}
"""Has any model begin a call wherever it may."""


def turn_of(http: httpx.Client, stream: bool, **body: Any) -> tuple[str | None, list[tuple[str, str]], str]:
    """What is said and called in a chat, and why it ended."""
    answer = http.post("/v1/chat/completions", json={**ROUTES["/v1/chat/completions"], "stream": stream, **body})
    assert answer.status_code == 200, answer.text
    if not stream:
        (choice,) = answer.json()["choices"]
        calls = [call["function"] for call in choice["message"].get("tool_calls", [])]
        said = choice["message"]["content"]
        return said, [(call["name"], call["arguments"]) for call in calls], choice["finish_reason"]
    said, names, arguments, reason = "", [], dict[int, str](), ""
    for data in events(answer.text)[:-1]:
        (choice,) = json.loads(data)["choices"]
        said, reason = said + choice["delta"].get("content", ""), choice["finish_reason"] or reason
        for call in choice["delta"].get("tool_calls", []):
            if "name" in call["function"]:
                names.append(call["function"]["name"])
            arguments[call["index"]] = arguments.get(call["index"], "") + call["function"]["arguments"]
    return said or None, list(zip(names, arguments.values(), strict=True)), reason


STRICT = [tool("store", SCHEMA, strict=True), tool("größe", {"type": "object", "properties": {}}, strict=True)]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 4}])
def test_a_call_is_held_from_where_it_begins(http: httpx.Client, sampling: dict[str, Any]) -> None:
    for tools in (STRICT, STRICT[:1]):
        asked = {"tools": tools, **CALLS, "parallel_tool_calls": False, "max_tokens": 300, **sampling}
        whole = turn_of(http, False, **asked)
        said, ((name, arguments),), reason = whole
        assert (said, reason) == (None, "tool_calls")
        assert is_thing(arguments) if name == "store" else (name, arguments) == ("größe", "{}")
        assert turn_of(http, True, **asked) == whole
        for drafting in ({"lookahead": False}, {"draft_tokens": 8}, {"lookahead": [4, 4, 4]}):
            assert turn_of(http, False, **asked, **drafting) == whole


def test_there_may_be_several_calls_and_text_stays_free(http: httpx.Client) -> None:
    base = {"tools": STRICT[1:], "max_tokens": 120}
    for stream in (False, True):
        said, calls, reason = turn_of(http, stream, **base, **CALLS)
        assert (said, reason, len(calls) > 2) == (None, "length", True)
        assert {name for name, _ in calls} == {"größe"}
    assert turn_of(http, False, **base)[1] == []


def test_a_limit_cuts_a_call_streamed_and_whole_alike(http: httpx.Client) -> None:
    asked = {"tools": STRICT[:1], **CALLS, "max_tokens": 18}
    said, ((name, arguments),), reason = turn_of(http, False, **asked)
    assert (said, name, arguments[:9], reason) == (None, "store", '{"name": ', "length")
    assert turn_of(http, True, **asked) == (said, [(name, arguments)], reason)


@pytest.mark.parametrize("more", [CALLS, {"tool_choice": "required"}])
def test_a_stop_string_within_a_calls_arguments_is_why_it_ended(http: httpx.Client, more: dict[str, Any]) -> None:
    asked = {"tools": STRICT[:1], **more, "parallel_tool_calls": False, "max_tokens": 300}
    for stop, whole in (('"kind', False), ("</tool_call>", True)):
        _, ((_, arguments),), reason = turn_of(http, False, **asked, stop=stop)
        assert (arguments.endswith("}"), reason) == (whole, "tool_calls" if whole else "stop")
        assert turn_of(http, True, **asked, stop=stop) == (None, [("store", arguments)], reason)


def test_arguments_come_as_they_are_written(http: httpx.Client) -> None:
    body = {**ROUTES["/v1/chat/completions"], "tools": STRICT[:1], **CALLS, "parallel_tool_calls": False}
    asked = {**body, "stream": True, "return_token_ids": True, "lookahead": False}  # a step per token
    answer = http.post("/v1/chat/completions", json=asked)
    deltas = [json.loads(data)["choices"][0]["delta"] for data in events(answer.text)[:-1]]
    parts = [call["function"] for delta in deltas for call in delta.get("tool_calls", [])]
    assert parts[0] == {"name": "store", "arguments": ""}
    assert len(parts) > 4
    assert not any("name" in part for part in parts[1:])


def test_an_answer_has_its_form_or_is_calls(http: httpx.Client) -> None:
    asked = {"tools": STRICT, "guided_json": SCHEMA, "max_tokens": 300, "parallel_tool_calls": False}
    for stream in (False, True):
        said, calls, reason = turn_of(http, stream, **asked)
        assert (is_thing(said or ""), calls, reason) == (True, [], "stop")
        said, calls, reason = turn_of(http, stream, **asked, **CALLS)
        assert (said, len(calls), reason) == (None, 1, "tool_calls")
        said, calls, _ = turn_of(http, stream, **{**asked, "guided_json": None, "guided_choice": CHOICE}, **CALLS)
        assert (said in CHOICE, calls) == (True, [])


def test_what_is_not_strict_is_any_object_whatever_its_schema(http: httpx.Client) -> None:
    odd = {"type": "object", "properties": {"a": {"not": {}}}}
    _, ((name, arguments), *_), _ = turn_of(http, False, tools=[tool("store", odd)], max_tokens=60, **CALLS)
    assert (name, arguments[0]) == ("store", "{")
    body = {**ROUTES["/v1/chat/completions"], "tools": [tool("store", odd, strict=True)]}
    refused = http.post("/v1/chat/completions", json=body)
    assert (refused.status_code, "not" in refused.json()["error"]["message"]) == (400, True)
