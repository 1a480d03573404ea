"""Answers held to a form, by every field that clients ask for one with."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict

from nimble_coder.contract.request import Guide, GuideType
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import HEAD_SECONDS
from nimble_coder.gateway.requests.field_check import check_fields
from nimble_coder.gateway.requests.fields import FORM, Engine
from nimble_coder.gateway.requests.forms import guide_of, turn_guide
from nimble_coder.gateway.requests.reading import decode
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from tests.gateway.asked_forms import CHOICE, NAMED, ROUTES, SCHEMA, TEXT, is_thing, tool
from tests.gateway.conftest import events

GBNF = 'root ::= "yes" | "no"'


def is_yes_or_no(text: str) -> bool:
    return text in ("yes", "no")


ASKED: dict[str, tuple[dict[str, Any], Any]] = {
    "json_schema": ({"response_format": {"type": "json_schema", "json_schema": NAMED}}, is_thing),
    "strict": ({"response_format": {"type": "json_schema", "json_schema": {**NAMED, "strict": True}}}, is_thing),
    "json_object with a schema": ({"response_format": {"type": "json_object", "schema": SCHEMA}}, is_thing),
    "structured_outputs": ({"structured_outputs": {"json": SCHEMA}}, is_thing),
    "structured_outputs text": ({"structured_outputs": {"json": TEXT}}, is_thing),
    "structured_outputs choice": ({"structured_outputs": {"choice": CHOICE}}, CHOICE.__contains__),
    "guided_json": ({"guided_json": SCHEMA}, is_thing),
    "guided_json text": ({"guided_json": TEXT}, is_thing),
    "guided_regex": ({"guided_regex": "[a-f]{3}-[0-9]{2}"}, re.compile("[a-f]{3}-[0-9]{2}").fullmatch),
    "guided_choice": ({"guided_choice": CHOICE}, CHOICE.__contains__),
    "guided_grammar": ({"guided_grammar": GBNF}, is_yes_or_no),
    "guided_grammar in Lark": ({"guided_grammar": 'start: "yes" | "no"'}, is_yes_or_no),
    "nvext": ({"nvext": {"guided_json": SCHEMA}}, is_thing),
    "nvext choice": ({"nvext": {"guided_choice": CHOICE}}, CHOICE.__contains__),
    "llama.cpp's schema": ({"json_schema": SCHEMA}, is_thing),
    "llama.cpp's grammar": ({"grammar": GBNF}, is_yes_or_no),
}


def text_of(answer: httpx.Response) -> str:
    """What a whole answer says."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    if "choices" not in body:
        return str(body["content"])
    choice = body["choices"][0]
    assert choice["finish_reason"] == "stop"
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


@pytest.mark.parametrize("name", ASKED)
def test_every_field_holds_the_answer_to_its_form(http: httpx.Client, name: str) -> None:
    fields, has_form = ASKED[name]
    for path, base in ROUTES.items():
        for sampling in ({}, {"temperature": 1.0, "seed": 5}):
            answer = http.post(path, json={**base, **fields, **sampling})
            assert has_form(text_of(answer)), (path, answer.text)
            assert "x-nimble-ignored" not in answer.headers


def test_any_object_will_do_for_json_object(http: httpx.Client) -> None:
    body = {**ROUTES["/v1/chat/completions"], "response_format": {"type": "json_object"}, "max_tokens": 30}
    choice = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert choice["message"]["content"].startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)


def test_drafting_changes_nothing(http: httpx.Client) -> None:
    body = {**ROUTES["/v1/chat/completions"], "guided_json": SCHEMA, "temperature": 0.9, "seed": 3, "logprobs": True}
    plain = http.post("/v1/chat/completions", json={**body, "lookahead": False}).json()
    for drafting in ({"lookahead": [4, 4, 4]}, {"draft_tokens": 8}, {}):
        drafted = http.post("/v1/chat/completions", json={**body, **drafting}).json()
        assert drafted["choices"] == plain["choices"]
    counts = drafted["usage"]["completion_tokens_details"]
    assert counts["accepted_prediction_tokens"] > 5  # keys and punctuation are known before they are computed


def test_it_is_streamed_and_several_answers_have_it(http: httpx.Client) -> None:
    body = {**ROUTES["/v1/completions"], "guided_json": SCHEMA, "stream": True, "n": 3, "temperature": 1.2, "seed": 1}
    texts = ["", "", ""]
    for data in events(http.post("/v1/completions", json=body).text)[:-1]:
        for choice in json.loads(data)["choices"]:
            texts[choice["index"]] += choice["text"]
    assert all(map(is_thing, texts))
    assert len(set(texts)) > 1


def test_limits_and_stops_end_it_earlier(http: httpx.Client) -> None:
    base = {**ROUTES["/v1/completions"], "guided_json": SCHEMA}
    cut = http.post("/v1/completions", json={**base, "max_tokens": 5}).json()["choices"][0]
    assert (cut["finish_reason"], cut["text"][:9]) == ("length", '{"name": ')
    stopped = http.post("/v1/completions", json={**base, "stop": ['"count"']}).json()["choices"][0]
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"].startswith('{"name": "')
    assert stopped["text"].endswith('", ')
    eager = http.post("/v1/completions", json={**base, "ignore_eos": True, "min_tokens": 150}).json()["choices"][0]
    assert is_thing(eager["text"])


class Step(BaseModel):
    model_config = ConfigDict(extra="forbid")
    done: bool
    letters: list[str]


def test_the_sdk_parses_it(openai: OpenAI) -> None:
    answer = openai.chat.completions.parse(
        model="qwen2.5-coder", messages=[{"role": "user", "content": "hi"}], response_format=Step, max_tokens=400
    )
    assert isinstance(answer.choices[0].message.parsed, Step)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a keyword": ({"guided_json": {"not": {"type": "string"}}}, "not"),
    "endless": (
        {"json_schema": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}},
        "endless",
    ),
    "1 MB": ({"guided_json": {"enum": ["x" * 1_000_000]}}, "65536"),
    "too many properties": ({"guided_json": {"properties": {f"k{i}": {} for i in range(5000)}}}, "500"),
    "a regex": ({"guided_regex": "(a"}, "regex"),
    "a grammar": ({"grammar": "root ::= other"}, "other"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "schema"),
    "an unknown format": ({"response_format": {"type": "xml"}}, "xml"),
    "a schema without a type": ({"response_format": {"json_schema": NAMED}}, "send type json_schema"),
    "a schema of a text": ({"response_format": {"type": "text", "schema": SCHEMA}}, "send type json_schema"),
    "structural tags": ({"structured_outputs": {"structural_tag": "{}"}}, "structural_tag"),
    "two inner fields": (
        {"structured_outputs": {"regex": "a", "choice": ["a"]}},
        "structured_outputs.regex and structured_outputs.choice",
    ),
    "two forms": ({"guided_json": SCHEMA, "guided_regex": "a"}, "send one of them"),
    "a strict schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"strict": True, "schema": {"not": {}}}}},
        "not",
    ),
}


def post_in_time(http: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    """The answer of a machine that is not too busy to refuse a stream before its head has to go."""
    for _ in range(5):
        answer = http.post(path, json=body)
        if answer.elapsed.total_seconds() < HEAD_SECONDS:
            break
    return answer


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_form_is_refused(http: httpx.Client, name: str, stream: bool) -> None:
    fields, told = BAD[name]
    for path in ("/v1/chat/completions", "/completion"):
        answer = post_in_time(http, path, {**ROUTES[path], **fields, "stream": stream})
        assert answer.status_code == 400, answer.text
        assert told in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_names_the_field_that_asks_for_the_form(http: httpx.Client, stream: bool) -> None:
    bad: dict[str, Any] = {"type": "object", "properties": {"a": {"not": {}}}}
    named_schema = {"name": "a", "schema": bad, "strict": True}
    form = {"type": "json_schema", "json_schema": named_schema}
    text = {"format": {"type": "json_schema", **named_schema}}
    chat = ROUTES["/v1/chat/completions"]
    for path, fields, named, param in (
        ("/v1/chat/completions", chat | {"response_format": form}, "response_format", "response_format"),
        ("/v1/chat/completions", chat | {"nvext": {"guided_json": bad}}, "nvext.guided_json", "nvext.guided_json"),
        ("/v1/responses", {"input": "a", "text": text}, "text.format", "text.format"),
        ("/completion", {"prompt": "a", "json_schema": bad}, "json_schema", "json_schema"),
    ):
        answer = post_in_time(http, path, {**fields, "stream": stream})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert f"the form of {named} is not supported" in error["message"]
        assert error["param"] == param
        assert '"not"' in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_names_the_function_or_the_field_whose_schema_is_wrong(http: httpx.Client, stream: bool) -> None:
    broken = {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}
    tools = [tool("now"), tool("größe", broken, strict=True)]
    form = {"response_format": {"type": "json_schema", "json_schema": {"schema": broken}}}
    object_form = {"response_format": {"type": "json_object"}}
    legacy = {"functions": [each["function"] for each in tools]}
    responses = [{"type": "function", **each["function"]} for each in tools]
    chat, parameters = ROUTES["/v1/chat/completions"], "the parameters of 'größe' are"
    for path, fields, named, param in (
        ("/v1/chat/completions", chat | {"tools": tools}, parameters, "tools"),
        ("/v1/chat/completions", chat | {"tools": tools, "tool_choice": "required"}, parameters, "tools"),
        ("/v1/chat/completions", chat | {"tools": tools} | object_form, parameters, "tools"),
        (
            "/v1/chat/completions",
            chat | {"tools": tools[:1]} | form,
            "the schema of response_format",
            "response_format",
        ),
        ("/v1/chat/completions", chat | legacy, parameters, "functions"),
        ("/v1/responses", {"input": "a", "tools": responses}, parameters, "tools"),
    ):
        answer = post_in_time(http, path, {**fields, "stream": stream})
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["message"].startswith(named)
        assert "'#/$defs/none' is not in the schema" in error["message"]
        assert error["param"] == param


def test_what_is_not_strict_passes_over_what_cannot_be_held_to(http: httpx.Client) -> None:
    schema = {**SCHEMA, "not": {"required": ["other"]}}
    body = {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    assert is_thing(text_of(http.post("/v1/completions", json={**ROUTES["/v1/completions"], **body})))


def test_a_form_that_takes_long_keeps_nobody_waiting(http: httpx.Client) -> None:
    """Three forms that are new and slow to compile, and meanwhile an answer without one."""
    base = ROUTES["/v1/completions"]

    def slow(number: int) -> int:
        schema = {"properties": {f"k{number}_{i}": {"type": "string"} for i in range(490)}}
        nested = {"type": "object", "properties": {"a": schema, "b": schema, "c": schema}}
        return http.post("/v1/completions", json={**base, "guided_json": nested, "max_tokens": 1}).status_code

    with ThreadPoolExecutor(3) as pool:
        started = time.monotonic()
        slow_ones = [pool.submit(slow, number) for number in range(3)]
        time.sleep(0.05)
        assert http.post("/v1/completions", json={**base, "max_tokens": 2}).status_code == 200
        free = time.monotonic() - started
        assert {each.result() for each in slow_ones} == {200}
        assert free < time.monotonic() - started


def test_a_form_that_turns_out_to_be_too_complex_ends_the_answer_with_an_error(http: httpx.Client) -> None:
    more = " | ".join("/[a-z]/ " * count + "e" for count in (1, 2, 3, 4))
    asked = {"prompt": "import os", "max_tokens": 400, "ignore_eos": True}
    asked["guided_grammar"] = f"start: e\ne: {more} | /[a-z]/"  # a row of Earley's grows with every letter
    whole = http.post("/v1/completions", json=asked)
    assert (whole.status_code, "too complex" in whole.json()["error"]["message"]) == (400, True)
    stream = http.post("/v1/completions", json={**asked, "stream": True})
    *chunks, last = [json.loads(data) for data in events(stream.text) if data != "[DONE]"]
    assert (stream.status_code, bool(chunks)) == (200, True)
    assert not any(choice["finish_reason"] for chunk in chunks for choice in chunk["choices"])
    assert "too complex" in last["error"]["message"]
    response = {"input": "hi", "max_output_tokens": 400, "guided_grammar": asked["guided_grammar"], "stream": True}
    failed = json.loads(events(http.post("/v1/responses", json={**response, "ignore_eos": True}).text)[-1])
    assert (failed["type"], failed["response"]["error"]["code"]) == ("response.failed", "invalid_prompt")


def test_an_engine_that_cannot_be_guided_says_what_can() -> None:
    for field in FORM:
        if field.needs is Engine.SAMPLING and "." not in field.name:
            body = json.dumps({field.name: field.example}).encode()
            with pytest.raises(ApiError, match="portable engine, or build it with --companion") as caught:
                check_fields(ChatRequest, body, Engine.GREEDY, False)
            assert (caught.value.status, caught.value.param) == (400, field.name)
            assert check_fields(ChatRequest, body, Engine.SAMPLING, True) == []


def test_properties_keep_their_order() -> None:
    body = json.dumps({"messages": [], "guided_json": {"properties": {"z": {}, "a": {}}}}).encode()
    assert guide_of(decode(ChatRequest, body)) == Guide(GuideType.JSON_SCHEMA, '{"properties": {"z": {}, "a": {}}}')


@pytest.mark.parametrize("odd", [5, None, "a", []])
def test_guidance_that_is_no_object_is_passed_over_with_tools_too(odd: Any) -> None:
    assert turn_guide([], None, {**SCHEMA, "x-guidance": odd}) == turn_guide([], None, SCHEMA)


def test_a_form_is_asked_for_over_kserve_too(http: httpx.Client) -> None:
    body = {"text_input": "import os", "max_tokens": 200, "stream": False, "end_id": 0, "pad_id": 0}
    guide = {"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": TEXT}
    answer = http.post("/v2/models/ensemble/generate", json={**body, **guide})
    assert answer.status_code == 200, answer.text
    assert is_thing(answer.json()["text_output"])
