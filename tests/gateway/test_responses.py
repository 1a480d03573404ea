"""`/v1/responses`: what OpenAI's SDK sends there is understood, and its events are OpenAI's."""

import json
from collections.abc import Iterator
from typing import Any, get_args

import httpx
import pytest
from openai import BadRequestError, OpenAI
from openai.types.responses import ResponseFunctionToolCall, ResponseStreamEvent
from pydantic import BaseModel, ConfigDict, Field

from build_engine.artifact import Artifact
from nimble_coder.gateway.answers.bodies.responses import EVENTS
from nimble_coder.gateway.answers.calling import Calling
from nimble_coder.gateway.answers.response_wire import ResponseWire
from nimble_coder.gateway.answers.transcript import Delta
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.schemas.responses import ResponsesRequest
from nimble_coder.text.tokenizer import TextTokenizer
from tests.gateway.conftest import events
from tests.gateway.test_tool_calls import CALLS, SAID, TEXT, client_of, request_for

PATH = "/v1/responses"
SHORT = {"input": "import os", "max_output_tokens": 8}
STORE: dict[str, Any] = {
    "type": "function",
    "name": "store",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}},
        "required": ["kind"],
        "additionalProperties": False,
    },
}
CALL = {"type": "function_call", "call_id": "c1", "name": "store", "arguments": '{"kind": "a"}'}


def post(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    whole: dict[str, Any] = answer.json()
    return whole


def said(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item.get("content", []))


def test_a_text_is_a_chat_with_one_message(http: httpx.Client) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "import os"}]
    chat = http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 8}).json()
    for asked in ("import os", [{"role": "user", "content": [{"type": "input_text", "text": "import os"}]}]):
        answer = post(http, input=asked, instructions="Be brief.", max_output_tokens=8)
        assert said(answer) == chat["choices"][0]["message"]["content"]
        assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert answer["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
        assert answer["usage"]["output_tokens"] == 8


def test_a_conversation_is_rendered_as_a_chats(http: httpx.Client) -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": "store a and b"},
        {"type": "reasoning", "id": "r1", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "So.", "annotations": []}],
        },
        CALL,
        {**CALL, "call_id": "c2", "arguments": '{"kind": "b"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "done too"}]},
    ]
    calls = [
        {"id": c, "type": "function", "function": {"name": "store", "arguments": f'{{"kind": "{kind}"}}'}}
        for c, kind in (("c1", "a"), ("c2", "b"))
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "store a and b"},
        {"role": "assistant", "content": "So.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
        {"role": "tool", "tool_call_id": "c2", "content": "done too"},
    ]
    chat_tool = {"type": "function", "function": {key: STORE[key] for key in ("name", "strict", "parameters")}}
    chat = http.post("/v1/chat/completions", json={"messages": messages, "tools": [chat_tool], "max_tokens": 4}).json()
    answer = post(http, input=items, tools=[STORE], max_output_tokens=4)
    assert answer["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert said(answer) == chat["choices"][0]["message"]["content"]


def streamed(http: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    answer = http.post(PATH, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    found = [json.loads(data) for data in events(answer.text)]
    named = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    assert named == [event["type"] for event in found]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def test_a_text_is_streamed_in_openais_events(http: httpx.Client) -> None:
    found = streamed(http, **SHORT)
    kinds = [event["type"] for event in found]
    deltas = kinds.count("response.output_text.delta")
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    whole = post(http, **SHORT)
    final = found[-1]["response"]
    ids = {"id", "created_at", "completed_at"}
    assert {k: v for k, v in final.items() if k not in {*ids, "output", "usage"}} == {
        k: v for k, v in whole.items() if k not in {*ids, "output", "usage"}
    }
    assert said(final) == said(whole) == "".join(event.get("delta", "") for event in found)
    assert final["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert {event["item_id"] for event in found if "item_id" in event} == {final["output"][0]["id"]}


NESTED = {"type": "function", "function": {"name": "store"}}
ALLOWED = {"mode": "required", "tools": [NESTED]}


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "store"},
        {"type": None, "name": "store"},
        {"type": "allowed_tools", "allowed_tools": ALLOWED},
        {"type": "allowed_tools", **ALLOWED},
    ],
)
def test_a_demanded_call_is_an_item(http: httpx.Client, choice: Any) -> None:
    body = {**SHORT, "tools": [STORE], "tool_choice": choice, "max_output_tokens": 60}
    (item,) = post(http, **body)["output"]
    assert (item["type"], item["name"], item["status"]) == ("function_call", "store", "completed")
    assert json.loads(item["arguments"])["kind"] in ("a", "b")
    found = streamed(http, **body)
    kinds = [event["type"] for event in found if event["type"] != "response.function_call_arguments.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event.get("delta", "") for event in found) == item["arguments"]
    assert found[-1]["response"]["output"][0]["arguments"] == item["arguments"]


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    done: bool
    letters: list[str] = Field(max_length=3)


def test_the_sdk_creates_parses_and_streams(openai: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "qwen2.5-coder", "input": "hi"}
    plain = openai.responses.create(**asked, max_output_tokens=6)
    assert plain.output_text
    assert plain.usage
    assert plain.usage.output_tokens == 6
    parsed = openai.responses.parse(**asked, text_format=Thing, max_output_tokens=300)
    assert isinstance(parsed.output_parsed, Thing)
    with openai.responses.stream(**asked, text_format=Thing, max_output_tokens=300) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.output_parsed == parsed.output_parsed == Thing.model_validate_json(text)


@pytest.fixture(scope="module")
def agent(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """A service whose engine says a set text with two calls in it."""
    with client_of(artifact, tmp_path_factory.mktemp("responses"), TEXT) as client:
        yield client


def test_text_and_calls_are_items_one_by_one(agent: OpenAI, tokenizer: TextTokenizer) -> None:
    limit = request_for(TEXT, tokenizer)["max_tokens"]
    tools: Any = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name, _ in CALLS]
    asked: dict[str, Any] = {"model": "demo", "input": "What is here?", "tools": tools, "max_output_tokens": limit}
    whole = agent.responses.create(**asked)
    assert whole.output_text == SAID
    calls = [item for item in whole.output if isinstance(item, ResponseFunctionToolCall)]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == CALLS
    assert len({call.call_id for call in calls}) == len(CALLS)
    with agent.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    added = [place for place, kind in enumerate(kinds) if kind == "response.output_item.added"]
    done = [place for place, kind in enumerate(kinds) if kind == "response.output_item.done"]
    assert len(added) == len(done) == 3
    assert sorted(added + done) == [place for pair in zip(added, done, strict=True) for place in pair]
    assert kinds.count("response.function_call_arguments.delta") >= len(CALLS)
    assert final.output_text == SAID
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
    cut = agent.responses.create(**{**asked, "max_output_tokens": limit - 12})
    assert (cut.status, [item.status for item in cut.output]) == (
        "incomplete",
        ["completed", "completed", "incomplete"],
    )
    none = agent.responses.create(**asked, tool_choice={"type": "allowed_tools", "mode": "auto", "tools": []})
    assert none.output_text == TEXT
    with pytest.raises(BadRequestError, match="there is no such tool"):
        agent.responses.create(**asked, tool_choice={"type": "function", "name": "write_file"})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"input": []}, "input"),
    "an image": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content",
    ),
    "a file": (
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "x", "text": "x"}]}]},
        "input[0].content",
    ),
    "a call of nothing": ({"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]}, "input[0].name"),
    "a call without an id": (
        {"input": [{"type": "function_call", "name": "a", "arguments": "{}"}]},
        "input[0].call_id",
    ),
    "a result of no call": ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    "a role": ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
    "a reference": ({"input": ["x", {"type": "item_reference", "id": "a"}][1:]}, "input[0].type"),
    "a hosted tool": ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    "a custom tool": ({"tools": [STORE, {"type": "custom", "name": "x"}]}, "tools[1].type"),
    "a tool without a name": ({"tools": [{"type": "function"}]}, "tools[0].name"),
    "a hosted choice": ({"tools": [STORE], "tool_choice": {"type": "file_search"}}, "tool_choice"),
    "an odd choice": (
        {"tools": [STORE], "tool_choice": {"type": "banana", "function": {"name": "store"}}},
        "tool_choice",
    ),
    "a choice without a name": ({"tools": [STORE], "tool_choice": {"type": "function"}}, "tool_choice.name"),
    "a choice of an empty name": (
        {"tools": [STORE], "tool_choice": {"type": "function", "name": ""}},
        "tool_choice.name",
    ),
    "a choice of no list": ({"tools": [STORE], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.tools"),
    "a choice of a custom tool": (
        {"tools": [STORE], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "custom", "name": "store"}]}},
        "tool_choice",
    ),
    "a choice of nothing": ({"tool_choice": "required"}, "tool_choice"),
    "what went before": ({"previous_response_id": "resp_1"}, "previous_response_id"),
    "a conversation": ({"conversation": {"id": "conv_1"}}, "conversation"),
    "the background": ({"background": True}, "background"),
    "a stored prompt": ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    "more in the answer": ({"include": ["file_search_call.results"]}, "include"),
    "log probabilities": ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, "include"),
    "a format": ({"text": {"format": {"type": "xml"}}}, "text.format"),
    "no schema": ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    "two formats": (
        {"text": {"format": {"type": "json_object"}}, "response_format": {"type": "json_object"}},
        "response_format",
    ),
    "thoughts alone": ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
    "no tokens": ({"max_output_tokens": 0}, "max_output_tokens"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_served_is_refused_by_name(http: httpx.Client, name: str, stream: bool) -> None:
    fields, param = REFUSED[name]
    answer = http.post(PATH, json={**SHORT, **fields, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert "lookahead" not in answer.text  # which has to do with none of them


def test_a_form_is_held_to(http: httpx.Client) -> None:
    form = {"type": "json_schema", "name": "x", "schema": STORE["parameters"], "strict": True}
    answer = post(http, **{**SHORT, "max_output_tokens": 60}, text={"format": form, "verbosity": "medium"})
    assert json.loads(said(answer))["kind"] in ("a", "b")
    assert answer["text"]["format"] == form


def test_what_changes_nothing_is_said(http: httpx.Client) -> None:
    answer = http.post(PATH, json={**SHORT, "store": True, "reasoning": {"effort": "low"}, "truncation": "auto"})
    assert answer.headers["x-nimble-ignored"] == "store, reasoning, truncation"
    assert answer.json()["store"] is False


def test_types_that_are_null_are_the_usual_ones(http: httpx.Client) -> None:
    item = {"type": None, "role": "user", "content": [{"type": None, "text": "hi"}]}
    form = {"format": {"type": None, "name": None}}
    answer = post(http, **{**SHORT, "input": [item]}, tools=[{**STORE, "type": None}], text=form)
    assert answer["text"] == {"format": {"type": "text"}}


def test_an_empty_schema_is_any_json(http: httpx.Client) -> None:
    form = {"type": "json_schema", "name": "x", "schema": {}, "strict": True}
    answer = post(http, **{**SHORT, "max_output_tokens": 60}, text={"format": form})
    assert answer["text"]["format"] == form
    refused = http.post(PATH, json={**SHORT, "text": {"format": {"type": "text", "schema": {}}}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "text.format.type")


def test_what_a_client_says_of_itself_is_repeated(http: httpx.Client) -> None:
    own = {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"a": "b"}}
    answer = http.post(PATH, json={**SHORT, **own, "text": {"format": {"type": "json_object"}}})
    assert "x-nimble-ignored" not in answer.headers
    whole = answer.json()
    assert {name: whole[name] for name in own} == own
    assert whole["text"] == {"format": {"type": "json_object"}}
    assert (whole["status"], whole["completed_at"]) == ("incomplete", None)
    called = post(http, **SHORT | {"max_output_tokens": 60}, tools=[STORE], tool_choice="required")
    assert called["completed_at"] >= called["created_at"]


def test_a_stream_that_fails_ends_with_the_response_that_failed() -> None:
    for has_begun in (False, True):
        wire = ResponseWire("r", "m", ResponsesRequest(input="x"), Calling())
        sent = wire.opening(0, None)
        sent = sent + wire.delta(0, Delta("a", [1], [], []), None) if has_begun else b""
        sent += wire.failing(ApiError(503, "the engine has died", "engine_lost"))
        found = [json.loads(data) for data in events(sent.decode())]
        assert [event["sequence_number"] for event in found] == list(range(len(found)))
        assert found[0]["type"] == "response.created"
        last = found[-1]
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
        assert last["response"]["error"] == {"code": "server_error", "message": "the engine has died"}


def test_the_events_are_those_of_the_sdk() -> None:
    union, _ = get_args(ResponseStreamEvent)
    known = {get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(union)}
    assert {str(event.__struct_config__.tag) for event in EVENTS} <= known
