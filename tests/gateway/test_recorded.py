"""What clients of structured output really sent (`recorded/record.py`) is answered with what they asked for."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.gateway.conftest import events

RECORDED = {
    path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "recorded").glob("*.json"))
}
LIMITS = {"/v1/responses": "max_output_tokens"}
"""By route; a chat's is `max_tokens`. Where only some object is asked for, the demonstration model finds no end."""


def said(answer: httpx.Response, path: str, is_stream: bool) -> tuple[str, str | None]:
    """The JSON that the client reads, and why the answer ended where it is a chat's."""
    if is_stream and path == "/v1/responses":
        found = [json.loads(data) for data in events(answer.text)]
        assert found[-1]["type"] == "response.completed"
        return "".join(each["delta"] for each in found if each["type"] == "response.output_text.delta"), None
    if is_stream:
        choices = [each for data in events(answer.text)[:-1] for each in json.loads(data)["choices"]]
        reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices), reasons[-1]
    body = answer.json()
    if body["object"] == "response":
        return body["output"][0]["content"][0]["text"], None
    (choice,) = body["choices"]
    calls = choice["message"].get("tool_calls")
    text = calls[0]["function"]["arguments"] if calls else choice["message"]["content"]
    return text, choice["finish_reason"]


def schema_of(body: dict[str, Any]) -> dict[str, Any] | None:
    """What the JSON has to be; None for any object."""
    if tools := body.get("tools"):
        parameters: dict[str, Any] = tools[0]["function"]["parameters"]
        return parameters
    form = body["text"]["format"] if "text" in body else body["response_format"]
    found: dict[str, Any] | None = form.get("schema") or form.get("json_schema", {}).get("schema")
    return found


def test_every_client_is_there() -> None:
    assert {name.split("-")[0] for name in RECORDED} == {"openai", "langchain", "instructor", "llm", "ai"}


@pytest.mark.parametrize("name", RECORDED)
def test_what_a_client_sent_gives_what_it_reads(http: httpx.Client, name: str) -> None:
    path, body = RECORDED[name]["path"], RECORDED[name]["body"]
    answer = http.post(path, json={**body, LIMITS.get(path, "max_tokens"): 400})
    assert answer.status_code == 200, answer.text
    text, reason = said(answer, path, bool(body.get("stream")))
    schema = schema_of(body)
    if schema:
        Draft202012Validator(schema).validate(json.loads(text))
    else:
        assert text.startswith("{")
        assert reason == "length" or isinstance(json.loads(text), dict)
