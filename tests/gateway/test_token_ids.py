"""Ids for those who ask for them: of the answer and of its prompt, and prompts as they are rendered."""

import json
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import events

MESSAGES = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "def f("}]


def chunks_of(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = http.post(path, json={**body, "stream": True})
    return [json.loads(event) for event in events(answer.text) if event != "[DONE]"]


def test_a_completions_prompt_ids_are_with_each_choice(http: httpx.Client) -> None:
    prompts = [[300, 301, 302], [303, 304]]
    body = {"prompt": prompts, "max_tokens": 4, "n": 2, "return_token_ids": True}
    whole = http.post("/v1/completions", json=body).json()["choices"]
    assert [choice["prompt_token_ids"] for choice in whole] == [prompts[0], prompts[0], prompts[1], prompts[1]]
    chunks = [chunk["choices"][0] for chunk in chunks_of(http, "/v1/completions", body)]
    for index, choice in enumerate(whole):
        first, *others = [chunk for chunk in chunks if chunk["index"] == index]
        assert first["prompt_token_ids"] == choice["prompt_token_ids"]
        assert not any("prompt_token_ids" in chunk for chunk in others)
        assert [i for chunk in [first, *others] for i in chunk.get("token_ids", [])] == choice["token_ids"]


@pytest.mark.parametrize(
    ("path", "body", "rendered"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES[:1]}, "/v1/chat/completions/render"),
        ("/v1/fim/completions", {"prompt": "a", "suffix": "b"}, "/v1/completions/render"),
    ],
)
def test_a_chats_prompt_ids_are_beside_its_choices(
    http: httpx.Client, path: str, body: dict[str, Any], rendered: str
) -> None:
    expected = http.post(rendered, json=body).json()["prompt_token_ids"]
    asked = {**body, "max_tokens": 4, "return_token_ids": True}
    assert http.post(path, json=asked).json()["prompt_token_ids"] == expected
    first, *others = chunks_of(http, path, asked)
    assert first["prompt_token_ids"] == expected
    assert not any("prompt_token_ids" in chunk for chunk in others)
    assert "prompt_token_ids" not in http.post(path, json={**body, "max_tokens": 4}).json()


def test_tokenize_goes_on_with_the_last_message_as_a_chat_does(http: httpx.Client) -> None:
    body = {"messages": MESSAGES, "continue_final_message": True, "add_generation_prompt": False}
    tokens = http.post("/tokenize", json=body).json()["tokens"]
    assert tokens == http.post("/v1/chat/completions/render", json=body).json()["prompt_token_ids"]
    assert http.post("/detokenize", json={"tokens": tokens}).json()["prompt"].endswith("assistant\ndef f(")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions/render", {"prompt": "a"}),
        ("/v1/chat/completions/render", {"messages": MESSAGES}),
        ("/infill/render", {"input_prefix": "a"}),
        ("/tokenize", {"content": "a"}),
        ("/detokenize", {"tokens": [300]}),
    ],
)
def test_a_model_that_is_not_served_is_not_found_here_either(
    http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    assert http.post(path, json={**body, "model": "qwen2.5-coder"}).status_code == 200
    refused = http.post(path, json={**body, "model": "gpt-4"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


def test_what_is_no_id_is_refused_by_the_name_of_its_field(http: httpx.Client) -> None:
    error = http.post("/detokenize", json={"tokens": [300, 99999]}).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_token_id", "tokens")
    assert error["message"].startswith("tokens holds '99999'")


def test_a_token_within_a_character_is_shown_as_its_bytes(http: httpx.Client) -> None:
    tokens = http.post("/tokenize", json={"content": "aé🦀<|im_end|>", "with_pieces": True}).json()["tokens"]
    pieces = [token["piece"] for token in tokens]
    shown = [piece.encode() if isinstance(piece, str) else bytes(piece) for piece in pieces]
    assert b"".join(shown).decode() == "aé🦀<|im_end|>"
    assert pieces[-1] == "<|im_end|>"
    assert {type(piece) for piece in pieces} == {str, list}
    assert "\ufffd" not in str(pieces)


def test_a_rendered_prompt_is_shortened_as_the_engines(http: httpx.Client) -> None:
    body = {"prompt": [300, 301, 302], "truncate_prompt_tokens": 2}
    assert http.post("/v1/completions/render", json=body).json()["prompt_token_ids"] == [301, 302]


@pytest.mark.parametrize("strict", [True, False])
def test_a_tools_strictness_is_in_its_prompt(http: httpx.Client, strict: bool) -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": strict}
    body = {"messages": MESSAGES[:1], "tools": [{"type": "function", "function": function}]}
    prompt = http.post("/v1/chat/completions/render", json=body).json()["prompt"]
    assert json.dumps({"type": "function", "function": function}) in prompt


@pytest.mark.parametrize("token", [-1, 4096, 2**70])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "def f"}),
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/fim/completions", {"prompt": "a", "suffix": "b"}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
        ("/completion", {"prompt": "a"}),
        ("/v1/completions/render", {"prompt": "a"}),
    ],
)
def test_a_stop_id_outside_the_vocabulary_is_refused(
    http: httpx.Client, path: str, body: dict[str, Any], token: int
) -> None:
    answer = http.post(path, json={**body, "stop_token_ids": [5, token]})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_token_id", "stop_token_ids")
    assert f"'{token}'" in error["message"]
