"""Every field that clients send is honoured, neutral, ignored and said, or refused, as the table of fields says."""

import asyncio
import copy
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from build_engine.artifact import Artifact
from nimble_coder.gateway.apis import fim, openai, responses
from nimble_coder.gateway.asgi.route import Handler
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.requests.documentation import page
from nimble_coder.gateway.requests.field_check import HONOURED, OBJECTS, ROUTES, check_fields, header
from nimble_coder.gateway.requests.fields import FIELDS, GROUPS, INSIDE, TOOL, Engine, Field, Otherwise
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.gateway.requests.schemas.completion import CompletionRequest
from nimble_coder.gateway.requests.schemas.llama import InfillRequest
from nimble_coder.gateway.requests.schemas.responses import ResponsesRequest
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.settings import GatewaySettings
from tests.gateway.turns import turns_of_others

DOCS = Path(__file__).parents[2] / "docs" / "request-fields.md"
SENT: dict[str, tuple[str, dict[str, Any]]] = {
    "completions": ("/v1/completions", {"prompt": "import os", "max_tokens": 1}),
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}),
    "responses": ("/v1/responses", {"input": "hi", "max_output_tokens": 1}),
    "fim": ("/v1/fim/completions", {"prompt": "import os", "max_tokens": 1}),
    "infill": ("/infill", {"input_prefix": "import os", "n_predict": 1}),
    "llama": ("/completion", {"prompt": "import os", "n_predict": 1}),
}


RENDERED = [SENT[route] for route in ("completions", "chat", "infill")]
OUTSIDE = [field for field in FIELDS.values() if field not in INSIDE]
BESIDE: dict[str, dict[str, Any]] = {
    "best_of": {"n": 2},
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": FIELDS["tools"].example},
    "function_call": {"functions": FIELDS["functions"].example},
    "repo_name": {"input_extra": FIELDS["input_extra"].example},
    "filename": {"input_extra": FIELDS["input_extra"].example},
}
"""What a field needs beside it on the route that honours it."""
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "options.num_predict")
"""Of which one is sent."""


def body_with(base: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    outer, _, inner = name.partition(".")
    return {**base, outer: {inner: value} if inner else value}


def asking(route: str, field: Field) -> dict[str, Any]:
    """A request that asks for what the field's example asks for."""
    base, is_honoured = SENT[route][1], field.name in HONOURED[ROUTES[route]]
    if field.name in LENGTHS and is_honoured:
        base = {name: value for name, value in base.items() if name not in LENGTHS}
    beside = BESIDE.get(field.name, {}) if is_honoured else {}
    if route == "completions" and "input_extra" in (field.name, *beside):
        beside = {**beside, "suffix": "\n"}
    return body_with({**base, **beside}, field.name, field.example)


def fate(route: str, field: Field, engine: Engine) -> str:
    """What has to become of the field's example."""
    if field.name in HONOURED[ROUTES[route]] and field.needs <= engine:
        return "honoured"
    return {Otherwise.ACCEPTED: "honoured", Otherwise.IGNORED: "ignored", Otherwise.REFUSED: "refused"}[field.otherwise]


def test_the_table_is_whole_and_names_each_field_once() -> None:
    assert len(FIELDS) == sum(map(len, GROUPS.values()))
    read = {name for kind in ROUTES.values() for name in HONOURED[kind]}
    assert {name for name in read if name.rpartition(".")[0] in ("", *OBJECTS)} <= set(FIELDS)
    assert not [f.name for f in FIELDS.values() if f.example in f.neutral]


def test_the_page_is_current() -> None:
    assert DOCS.read_text() == page(), "python -m nimble_coder.gateway.requests.documentation > docs/request-fields.md"


@pytest.mark.parametrize("route", SENT)
def test_every_field_meets_its_fate(http: httpx.Client, route: str) -> None:
    for field in OUTSIDE:
        answer = http.post(SENT[route][0], json=asking(route, field))
        seen = answer.headers.get("x-nimble-ignored")
        wanted = fate(route, field, Engine.PORTABLE)
        if wanted == "refused":
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported", field.name), field
        else:
            assert answer.status_code == 200, (field, answer.text)
            assert seen == (field.name if wanted == "ignored" else None), field


@pytest.mark.parametrize("route", SENT)
def test_what_asks_for_nothing_is_accepted_in_silence(http: httpx.Client, route: str) -> None:
    path, base = SENT[route]
    for field in OUTSIDE:
        for value in (*field.neutral, None):
            if field.name in base and value is None:
                continue
            if field.name in HONOURED[ROUTES[route]] and value in ({}, "", []):
                continue  # of another type there
            answer = http.post(path, json=body_with(base, field.name, value))
            assert (answer.status_code, answer.headers.get("x-nimble-ignored")) == (200, None), (field, answer.text)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "x", "add_special": True, "add_special_tokens": False}),
        ("/tokenize", {"messages": [{"role": "user", "content": "x", "yyy": 1}]}),
        ("/detokenize", {"tokens": [5]}),
        ("/v1/completions/render", {"prompt": "x", "temperature": 0.5}),
        ("/v1/chat/completions/render", {"messages": [{"role": "user", "content": "x", "yyy": 1}], "max_tokens": 2}),
        ("/infill/render", {"input_prefix": "x", "n_predict": 2}),
    ],
)
def test_routes_that_do_not_generate_say_what_they_do_not_read(
    http: httpx.Client, strict: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    wanted = ["messages.yyy"] if "messages" in body else []
    assert http.post(path, json={**body, "zzz": 1}).headers["x-nimble-ignored"] == ", ".join([*wanted, "zzz"])
    assert http.post(path, json=body).headers.get("x-nimble-ignored") == (wanted[0] if wanted else None)
    for client, more in ((strict, {"zzz": 1}), (http, {"chat_template": "x"})):
        refused = client.post(path, json={**body, **more})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported")


def test_a_prompt_is_rendered_of_what_would_be_answered(http: httpx.Client) -> None:
    for path, base in RENDERED:
        body = {**base, "mirostat": 2, "prediction": {"content": "x"}, "seed": 7, "stream_options": {"zzz": 1}}
        answers = [http.post(each, json=body) for each in (path, f"{path}/render")]
        assert len({answer.headers["x-nimble-ignored"] for answer in answers}) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"min_tokens": 2},
        {"response_format": {"type": "function"}},
        {"guided_json": {}, "grammar": "x"},
        {"logit_bias": {"999999": 1}},
        {"lookahead": [1, 2, 3]},
        {"n": 17},
        {"n_cmpl": 17, "zzz": 1},
    ],
)
def test_no_prompt_is_rendered_that_would_be_refused(http: httpx.Client, more: dict[str, Any]) -> None:
    for path, base in RENDERED:
        answered, rendered = (http.post(each, json={**base, **more}) for each in (path, f"{path}/render"))
        named = [answer.headers.get("x-nimble-ignored") for answer in (answered, rendered)]
        assert (answered.status_code, named[0]) == (rendered.status_code, named[1])
        if answered.status_code != 200:
            assert answered.json() == rendered.json()


@pytest.mark.parametrize(
    ("route", "more", "param"),
    [
        ("completions", {"prompt": ""}, "prompt"),
        ("completions", {"prompt": "x " * 9000}, "prompt"),
        ("completions", {"prompt": ["x", []]}, "prompt"),
        ("completions", {"best_of": 2}, "best_of"),
        ("chat", {"messages": [{"role": "user", "content": "x " * 9000}]}, "prompt"),
        ("chat", {"top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_what_is_too_long_or_means_nothing_is_not_rendered(
    http: httpx.Client, route: str, more: dict[str, Any], param: str
) -> None:
    path, base = SENT[route]
    for each in (path, f"{path}/render"):
        refused = http.post(each, json={**base, **more})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("route", SENT)
def test_an_unknown_drafter_is_named(http: httpx.Client, route: str) -> None:
    path, base = SENT[route]
    refused = http.post(path, json={**base, "drafting": "zzz"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "drafting")


def test_a_number_that_none_holds_is_refused_in_words_where_nobody_reads_it() -> None:
    with pytest.raises(ApiError, match="Number out of range in a value of the body") as caught:
        check_fields(CompletionRequest, b'{"prompt": "x", "zzz": {"a": 1e400}}', Engine.PORTABLE, False)
    assert (caught.value.status, caught.value.param) == (400, None)


@pytest.mark.parametrize("names", [("prompt", "content"), ("content", "messages"), ("prompt", "messages")])
def test_one_text_alone_is_made_tokens_of(http: httpx.Client, names: tuple[str, str]) -> None:
    texts = {"prompt": "", "content": "x", "messages": [{"role": "user", "content": "x"}]}
    refused = http.post("/tokenize", json={name: texts[name] for name in names})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, names[1])


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


IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a"}}]}
INPUT_IMAGE = {"role": "user", "content": [{"type": "input_image", "image_url": "https://a"}]}
SEARCH = {"type": "web_search_preview", "search_context_size": "low"}


@pytest.mark.parametrize(
    ("route", "more", "code"),
    [
        ("chat", {"messages": [IMAGE]}, "unsupported_content"),
        ("responses", {"input": [INPUT_IMAGE]}, "unsupported_content"),
        ("responses", {"input": [{"type": "computer_call", "action": {"type": "wait"}}]}, "unsupported"),
        ("responses", {"tools": [SEARCH]}, "unsupported"),
        ("chat", {"tools": [SEARCH]}, "unsupported"),
    ],
)
def test_what_is_refused_anyway_is_not_said_to_be_ignored(
    http: httpx.Client, strict: httpx.Client, route: str, more: dict[str, Any], code: str
) -> None:
    path, base = SENT[route]
    for client in (http, strict):
        answer = client.post(path, json={**base, **more})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
        assert "ignore" not in answer.json()["error"]["message"]
        assert "x-nimble-ignored" not in answer.headers


def test_false_and_what_is_empty_ask_for_nothing_inside_and_numbers_are_not_false() -> None:
    nothing: dict[str, Any] = {"a": False, "b": "", "c": [], "d": {}}
    body = {**nothing, "messages": [{"role": "user", **nothing, "e": 0}], "prompt_logprobs": 0, "n_probs": 0.0}
    named = ["a", "b", "c", "d", "messages.e", "prompt_logprobs"]
    assert check_fields(ChatRequest, json.dumps(body).encode(), Engine.PORTABLE, False) == named


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("strict", [False, True])
def test_engines_that_can_less_honour_less(engine: Engine, strict: bool) -> None:
    for route, kind in ROUTES.items():
        for field in OUTSIDE:
            body = json.dumps(body_with({}, field.name, field.example)).encode()
            wanted = fate(route, field, engine)
            # What a greedy engine makes of sampling depends on several fields together and is decided by `sampling.py`.
            later = field.name in HONOURED[kind] and field.needs is Engine.SAMPLING
            if wanted == "refused" or (strict and wanted == "ignored" and not later):
                with pytest.raises(ApiError, match=field.name) as caught:
                    check_fields(kind, body, engine, strict)
                assert (caught.value.status, caught.value.code) == (400, "unsupported")
            else:
                assert check_fields(kind, body, engine, strict) == ([field.name] if wanted == "ignored" else []), field


def test_strictly_all_that_is_not_honoured_is_refused(strict: httpx.Client) -> None:
    path, base = SENT["completions"]
    for field in OUTSIDE:
        answer = strict.post(path, json=asking("completions", field))
        wanted = 200 if fate("completions", field, Engine.PORTABLE) == "honoured" else 400
        assert answer.status_code == wanted, (field, answer.text)
    unknown = strict.post(path, json={**base, "temprature": 1}).json()["error"]
    assert (unknown["code"], unknown["param"]) == ("unsupported", "temprature")


def test_unknown_fields_are_named_however_odd(http: httpx.Client) -> None:
    path, base = SENT["completions"]
    inner = {"options": {"mirostat": 2, "num_predict": 1}, "structured_outputs": {"choise": ["a"]}}
    odd = {"a\r\nx-evil: 1": 1, "ü": 1, **inner, **{f"f{i}": i for i in range(40)}}
    answer = http.post(path, json={**base, **odd})
    names = answer.headers["x-nimble-ignored"].split(", ")
    assert names[:5] == ["?", "?", "options.mirostat", "structured_outputs.choise", "f0"]
    assert (len(names), names[-1]) == (33, "...")
    assert "x-evil" not in answer.headers


def test_a_streams_head_names_them_too(http: httpx.Client) -> None:
    path, base = SENT["chat"]
    answer = http.post(path, json={**base, "stream": True, "mirostat": 2, "user": "me"})
    assert answer.headers["x-nimble-ignored"] == "mirostat"


def test_fields_that_are_no_json_are_an_error_as_everywhere() -> None:
    deep = b'{"prompt": "x", "zzz": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for body in (b'{"prompt": "x", "zzz": "\xff"}', deep):
        try:
            ignored = check_fields(CompletionRequest, body, Engine.PORTABLE, False)
        except ApiError as error:
            assert error.status == 400
        else:
            assert ignored == ["zzz"]
    assert header(["a", "b c"]) == b"a, ?"


async def read_request(artifact: Artifact, body: bytes) -> None:
    """Reads a request and checks its fields."""
    service = Service(GatewaySettings(artifact=artifact.directory, triton_grpc_port=1, triton_http_port=1))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(_: Any) -> None:
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": SENT["chat"][0], "headers": []}
    await service.read(Exchange(scope, receive, send), ChatRequest)


def test_the_fields_of_a_large_body_are_checked_beside_the_event_loop(artifact: Artifact) -> None:
    message = {"role": "user", "content": "hi"}
    small, large = (json.dumps({"messages": [message] * count}).encode() for count in (1, 20_000))
    few, many = (asyncio.run(turns_of_others(read_request(artifact, body))) for body in (small, large))
    assert few < many


@pytest.mark.parametrize("size", [1, 20_000])
@pytest.mark.parametrize(
    ("module", "handler", "body"),
    [
        (openai, openai.completions, {"prompt": "x"}),
        (openai, openai.chat, {"messages": [{"role": "user", "content": "x"}]}),
        (responses, responses.responses, {"input": "x"}),
        (fim, fim.mistral_fim, {"prompt": "x"}),
        (fim, fim.llama_infill, {"prompt": "x"}),
        (fim, fim.llama_completion, {"prompt": "x"}),
    ],
)
def test_generations_of_a_large_body_are_made_beside_the_event_loop(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, module: Any, handler: Handler, body: dict[str, Any], size: int
) -> None:
    """Biases and bad words are tokenised there."""
    found = list[threading.Thread]()

    def make_jobs(*_: object, **__: object) -> None:
        found.append(threading.current_thread())
        raise ApiError(400, "enough")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps({**body, "user": "x" * size}).encode()}

    monkeypatch.setattr(module, "make_jobs", make_jobs)
    service = Service(GatewaySettings(artifact=artifact.directory, triton_grpc_port=1, triton_http_port=1))
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    front: Any = SimpleNamespace(service=service)
    with pytest.raises(ApiError, match="enough"):
        asyncio.run(handler(front, Exchange(scope, receive, None)))  # type: ignore[arg-type] # nothing is sent
    assert [thread is threading.main_thread() for thread in found] == [size == 1]


def test_biases_by_text_are_bounded_together(http: httpx.Client) -> None:
    for path, base in SENT.values():
        for asked in ({"y" * 16_385: 1}, {f"{i} {'y' * 60}": 1 for i in range(300)}, [["y" * 20_000, False]]):
            answer = http.post(path, json={**base, "logit_bias": asked})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logit_bias")
            assert "16384 is the limit" in answer.json()["error"]["message"]
    fits = {str(i): 0 for i in range(1000)} | {"y" * 16_000: 0}
    assert http.post(path, json={**base, "logit_bias": fits}).status_code == 200


def first_token(http: httpx.Client, **more: Any) -> int:
    body = {"prompt": "def add(a, b):\n    return", "max_tokens": 1, "return_token_ids": True, **more}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["choices"][0]["token_ids"][0])


@pytest.mark.parametrize("temperature", [0, 1000])
def test_a_bias_forbids_and_prefers(http: httpx.Client, temperature: float) -> None:
    usual = first_token(http)
    for asked in ({str(usual): -100}, [[usual, False]], [[usual, -100]]):
        found = {first_token(http, logit_bias=asked, temperature=temperature, seed=seed) for seed in range(3)}
        assert usual not in found
    assert first_token(http, logit_bias={"77": 100}, temperature=0) == 77


def test_a_bias_by_text_is_of_all_its_tokens(http: httpx.Client) -> None:
    usual = first_token(http)
    text = http.post("/detokenize", json={"tokens": [usual]}).json()["content"]
    assert first_token(http, logit_bias=[[text, -100]]) != usual


@pytest.mark.parametrize(
    "asked", [{"4096": 1}, {"-1": 1}, {"5": 101}, {"5": "1"}, [[5]], {str(i): 1 for i in range(1025)}, "5"]
)
def test_a_bias_that_is_none_is_refused(http: httpx.Client, asked: Any) -> None:
    answer = http.post("/v1/completions", json={"prompt": "x", "max_tokens": 1, "logit_bias": asked})
    assert (answer.status_code, answer.json()["error"]["param"][:10]) == (400, "logit_bias")


@pytest.mark.parametrize("path", ["/v1/completions", "/completion"])
def test_bad_words_do_not_come_with_or_without_a_blank(http: httpx.Client, path: str) -> None:
    body = {"prompt": "import os\nimport sys\n", "max_tokens": 24}
    text = http.post(path, json=body).text
    assert "import" in text
    assert "import" not in http.post(path, json={**body, "bad_words": ["import"]}).json().get("choices", [{}])[0].get(
        "text", ""
    )


def test_min_p_cuts_what_is_unlikely(http: httpx.Client) -> None:
    usual = first_token(http)
    assert {first_token(http, min_p=1, temperature=3, seed=seed) for seed in range(8)} == {usual}
    assert {first_token(http, temperature=3, seed=seed) for seed in range(8)} != {usual}


def test_a_prompt_is_truncated_from_the_left(http: httpx.Client) -> None:
    body = {"prompt": [5, 6, 7, 8], "max_tokens": 1}
    for kept, tokens in ((1, 1), (3, 3), (9, 4), (-1, 4)):
        answer = http.post("/v1/completions", json={**body, "truncate_prompt_tokens": kept})
        assert answer.json()["usage"]["prompt_tokens"] == tokens
    nothing = http.post("/v1/completions", json={**body, "truncate_prompt_tokens": 0})
    assert (nothing.status_code, nothing.json()["error"]["param"]) == (400, "truncate_prompt_tokens")


def test_a_stop_string_is_shown_where_it_is_asked_for(http: httpx.Client) -> None:
    body = {"prompt": "import os\n", "max_tokens": 40, "stop": ["\n"]}
    plain = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    shown = http.post("/v1/completions", json={**body, "include_stop_str_in_output": True}).json()["choices"][0]["text"]
    assert shown == plain + "\n"


def test_what_only_types_honour_is_what_the_routes_read() -> None:
    assert {"response_format", "logit_bias"} <= HONOURED[ChatRequest]
    assert "grammar" in HONOURED[InfillRequest]
    assert not {"audio", "prediction", "store"} & HONOURED[ChatRequest]
    assert "mirostat" not in HONOURED[InfillRequest]
