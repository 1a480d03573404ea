"""Every field that clients send is honoured, neutral, ignored and said, or refused, as the table of fields says."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.documentation import page
from nimble_coder.gateway.requests.field_check import HONOURED, MOST_SHOWN, OBJECTS, ROUTES, check_fields, header
from nimble_coder.gateway.requests.fields import FIELDS, GROUPS, INSIDE, Engine
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.gateway.requests.schemas.completion import CompletionRequest
from nimble_coder.gateway.requests.schemas.llama import InfillRequest
from tests.gateway.asking import SENT, asking, body_with, fate

DOCS = Path(__file__).parents[2] / "docs" / "request-fields.md"
OUTSIDE = [field for field in FIELDS.values() if field not in INSIDE]


def test_the_table_is_whole_and_names_each_field_once() -> None:
    assert len(FIELDS) == sum(map(len, GROUPS.values()))
    read = {name for kind in ROUTES.values() for name in HONOURED[kind]}
    assert {name for name in read if name.rpartition(".")[0] in ("", *OBJECTS)} <= set(FIELDS)
    assert not [f.name for f in FIELDS.values() if f.example in f.neutral]


def test_the_page_is_current() -> None:
    assert DOCS.read_text() == page(), "python -m nimble_coder.gateway.requests.documentation > docs/request-fields.md"


@pytest.mark.parametrize("route", SENT)
def test_every_field_meets_its_fate(http: httpx.Client, route: str) -> None:
    """Those that are ignored as many at once as a header names: each alone is `check_fields`'s, below."""
    fates = {field.name: fate(route, field, Engine.PORTABLE) for field in OUTSIDE}
    for field in (field for field in OUTSIDE if fates[field.name] != "ignored"):
        answer = http.post(SENT[route][0], json=asking(route, field))
        if fates[field.name] == "refused":
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported", field.name), field
        else:
            assert (answer.status_code, answer.headers.get("x-nimble-ignored")) == (200, None), (field, answer.text)
    ignored = [field for field in OUTSIDE if fates[field.name] == "ignored"]
    for start in range(0, len(ignored), MOST_SHOWN):
        some = ignored[start : start + MOST_SHOWN]
        answer = http.post(SENT[route][0], json=together(SENT[route][1], {field.name: field.example for field in some}))
        assert answer.status_code == 200, answer.text
        assert set(answer.headers["x-nimble-ignored"].split(", ")) == {field.name for field in some}


@pytest.mark.parametrize("route", SENT)
def test_what_asks_for_nothing_is_accepted_in_silence(http: httpx.Client, route: str) -> None:
    """What a route reads is sent alone; all that nobody looks at behind `check_fields` is sent together."""
    (path, base), kind, unread = SENT[route], ROUTES[route], list[dict[str, Any]]()
    for field in OUTSIDE:
        is_read = field.name in HONOURED[kind]
        for turn, value in enumerate((*field.neutral, None)):
            if field.name in base and value is None:
                continue
            if is_read and value in ({}, "", []):
                continue  # of another type there
            body = body_with(base, field.name, value)
            if is_read:
                answer = http.post(path, json=body)
                assert (answer.status_code, answer.headers.get("x-nimble-ignored")) == (200, None), (field, answer.text)
                continue
            assert check_fields(kind, json.dumps(body).encode(), Engine.PORTABLE, False) == [], field
            unread += [{}] * (turn + 1 - len(unread))
            unread[turn] = {**unread[turn], field.name: value}
    for values in unread:
        answer = http.post(path, json=together(base, values))
        assert (answer.status_code, answer.headers.get("x-nimble-ignored")) == (200, None), answer.text


def together(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A request with all of them."""
    body = base
    for name, value in values.items():
        outer, _, inner = name.partition(".")
        body = {**body, outer: {**body.get(outer, {}), inner: value} if inner else value}
    return body


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


@pytest.mark.parametrize("route", SENT)
def test_an_unknown_drafter_is_named(http: httpx.Client, route: str) -> None:
    path, base = SENT[route]
    refused = http.post(path, json={**base, "drafting": "zzz"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "drafting")


@pytest.mark.parametrize("value", ["1e400", '{"a": -1e400}', '[{"b": 1e400}]', f"1{'0' * 5000}"])
def test_a_number_that_none_holds_is_refused_by_its_field_unless_nobody_looks_at_it(value: str) -> None:
    def check(name: str) -> list[str]:
        return check_fields(CompletionRequest, f'{{"prompt": "x", "{name}": {value}}}'.encode(), Engine.PORTABLE, False)

    assert check("zzz") == ["zzz"]
    with pytest.raises(ApiError, match="out of range in a value of reasoning: send another one") as caught:
        check("reasoning")
    assert (caught.value.status, caught.value.param) == (400, "reasoning")


@pytest.mark.parametrize("names", [("prompt", "content"), ("content", "messages"), ("prompt", "messages")])
def test_one_text_alone_is_made_tokens_of(http: httpx.Client, names: tuple[str, str]) -> None:
    texts = {"prompt": "", "content": "x", "messages": [{"role": "user", "content": "x"}]}
    refused = http.post("/tokenize", json={name: texts[name] for name in names})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, names[1])


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


def test_what_only_types_honour_is_what_the_routes_read() -> None:
    assert {"response_format", "logit_bias"} <= HONOURED[ChatRequest]
    assert "grammar" in HONOURED[InfillRequest]
    assert not {"audio", "prediction", "store"} & HONOURED[ChatRequest]
    assert "mirostat" not in HONOURED[InfillRequest]
