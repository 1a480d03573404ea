"""Where an answer ends: end tokens, stop strings and limits, in whole characters, and counted rightly."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from build_engine.artifact import Artifact
from nimble_coder.processes.serving import Serving
from nimble_coder.text.tokenizer import TextTokenizer
from tests.gateway.conformance import CheckingClient
from tests.gateway.conftest import events
from tests.gateway.test_access import gateway_with

PROMPT = "".join(f"x{i} = foo({i})\n" for i in range(1, 6))
CRAB = "🦀"
ENDS = {"<|im_end|>": 90, "<|endoftext|>": 90}
"""A bias under which the model ends as soon as it may."""


@pytest.fixture(scope="module")
def short(artifact: Artifact, gateway: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A gateway for 1,024 positions: a prompt that fills the engine's 8,192 takes four seconds to read."""
    with (
        gateway_with(artifact, gateway, tmp_path_factory.mktemp("short") / "log", max_model_len=1024) as gateways,
        CheckingClient(base_url=gateways.addresses.http, timeout=60) as client,
    ):
        yield client


def complete(http: httpx.Client, **more: Any) -> dict[str, Any]:
    answer = http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 9, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(("least", "reason"), [(0, "stop"), (1, "stop"), (5, "stop"), (9, "length")])
@pytest.mark.parametrize("lookahead", [False, True])
def test_min_tokens_come_before_an_end_token_can(http: httpx.Client, least: int, reason: str, lookahead: bool) -> None:
    answer = complete(http, min_tokens=least, logit_bias=ENDS, lookahead=lookahead, return_token_ids=True)
    assert answer["usage"]["completion_tokens"] == len(answer["choices"][0]["token_ids"]) == least
    assert answer["choices"][0]["finish_reason"] == reason


def test_min_tokens_hold_for_stop_token_ids_and_stop_strings(http: httpx.Client) -> None:
    usual = complete(http, return_token_ids=True)["choices"][0]
    first = usual["token_ids"][0]
    answer = complete(http, min_tokens=4, stop_token_ids=[first], return_token_ids=True)["choices"][0]
    assert len(answer["token_ids"]) >= 4
    assert first not in answer["token_ids"][:4]
    for stop in usual["text"][:3]:
        answer = complete(http, min_tokens=6, stop=[stop])
        assert answer["usage"]["completion_tokens"] >= 6
        assert answer["choices"][0]["text"].startswith(usual["text"][:3])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x", "max_tokens": 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 2}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 2}),
        ("/v1/fim/completions", {"prompt": "x", "max_tokens": 2}),
        ("/completion", {"prompt": "x", "n_predict": 2}),
    ],
)
def test_fewer_tokens_than_there_have_to_be_are_refused(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    answer = http.post(path, json={**body, "min_tokens": 3})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "min_tokens")
    assert http.post(path, json={**body, "min_tokens": 2}).status_code == 200


@pytest.mark.parametrize("limit", [{}, {"max_tokens": 2**40}, {"max_tokens": -1}])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": PROMPT}),
        ("/v1/completions", {"prompt": PROMPT, "suffix": "\n"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]}),
        ("/v1/responses", {"input": PROMPT}),
        ("/v1/fim/completions", {"prompt": PROMPT}),
        ("/infill", {"input_prefix": PROMPT}),
        ("/completion", {"prompt": PROMPT}),
    ],
)
def test_more_tokens_than_fit_behind_the_prompt_are_refused(
    http: httpx.Client, path: str, body: dict[str, Any], limit: dict[str, int]
) -> None:
    """Where a limit is cut to what fits, since it promises nothing: this does."""
    limit = {} if path == "/v1/responses" else limit
    answer = http.post(path, json={**body, **limit, "min_tokens": 8192})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "min_tokens")
    found = re.fullmatch(r"min_tokens is 8192, and (\d+) tokens fit behind the prompt: send less", error["message"])
    assert found
    fits = {"min_tokens": int(found[1]), "stop_token_ids": [5], "logit_bias": {"5": 100}}
    refused = http.post(path, json={**body, **limit, **fits, "min_tokens": int(found[1]) + 1})
    assert refused.json()["error"]["param"] == "min_tokens"


def test_as_many_tokens_as_fit_are_written(short: httpx.Client) -> None:
    prompt = [5] * (1024 - 92)
    answer = complete(short, prompt=prompt, max_tokens=None, min_tokens=92, logit_bias=ENDS)
    assert answer["usage"]["completion_tokens"] == 92
    refused = short.post("/v1/completions", json={"prompt": prompt, "min_tokens": 93})
    assert refused.json()["error"]["message"] == "min_tokens is 93, and 92 tokens fit behind the prompt: send less"


@pytest.mark.parametrize("size", [1, 400])
@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", {}), ("/v1/completions", {"suffix": "\n"}), ("/v1/fim/completions", {}), ("/infill", {})],
)
def test_the_usual_length_is_no_less_than_there_has_to_be(
    short: httpx.Client, path: str, body: dict[str, Any], size: int
) -> None:
    """However long an infill's prompt is, which is cut for it."""
    prompt = PROMPT * (size if body or path != "/v1/completions" else 1)
    answer = short.post(path, json={**body, "prompt": prompt, "min_tokens": 150, "logit_bias": ENDS}).json()
    assert (answer["usage"]["completion_tokens"] if "usage" in answer else answer["tokens_predicted"]) == 150


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_the_id_that_ends_it_is_told_and_shown_where_asked_for(http: httpx.Client, ignore_eos: bool) -> None:
    usual = complete(http, return_token_ids=True)["choices"][0]
    stop = usual["token_ids"][2]
    body = {"stop_token_ids": [stop], "ignore_eos": ignore_eos, "return_token_ids": True, "logprobs": 0}
    plain = complete(http, **body)["choices"][0]
    shown = complete(http, **body, include_stop_str_in_output=True)["choices"][0]
    assert plain["stop_reason"] == shown["stop_reason"] == stop
    assert shown["token_ids"] == [*plain["token_ids"], stop]
    assert len(shown["logprobs"]["tokens"]) == len(shown["token_ids"])
    assert shown["text"].startswith(plain["text"])
    assert len(shown["text"]) > len(plain["text"])
    body |= {"prompt": PROMPT, "max_tokens": 9, "stream": True, "include_stop_str_in_output": True}
    *chunks, last = [json.loads(e)["choices"][0] for e in events(http.post("/v1/completions", json=body).text)[:-1]]
    assert ("".join(chunk["text"] for chunk in chunks), last["stop_reason"]) == (shown["text"], stop)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/fim/completions"])
def test_a_chats_choices_say_too_what_of_the_request_ended_them(http: httpx.Client, path: str) -> None:
    body = {"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"prompt": PROMPT}
    usual = http.post(path, json={**body, "max_tokens": 9, "return_token_ids": True}).json()["choices"][0]
    text, ids = usual["message"]["content"], usual["token_ids"]
    for more, reason in (({"stop": [text[2]]}, text[2]), ({"stop_token_ids": [ids[3]]}, ids[3]), ({}, None)):
        asked = {**body, "max_tokens": 9, **more}
        assert http.post(path, json=asked).json()["choices"][0]["stop_reason"] == reason
        streamed = [json.loads(e) for e in events(http.post(path, json={**asked, "stream": True}).text)[:-1]]
        *choices, last = [choice for chunk in streamed for choice in chunk["choices"]]
        assert last["stop_reason"] == reason
        assert not any("stop_reason" in choice for choice in choices)


@pytest.mark.parametrize("word", ["<|endoftext|>", "<|im_end|>"])
def test_the_models_own_end_is_no_stop_string_though_one_spells_it(http: httpx.Client, word: str) -> None:
    """As in llama.cpp (`process_token`) and vLLM (`check_stop`), which look for the end first."""
    asked = {"prompt": "x", "stop": [word], "logit_bias": [[word, 90]], "include_stop_str_in_output": True}
    choice = http.post("/v1/completions", json=asked).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", None)
    for path in ("/completion", "/infill"):
        answer = http.post(path, json=asked).json()
        assert (answer["content"], answer["stop_type"], answer["stopping_word"]) == ("", "eos", "")
    ignoring = {**asked, "ignore_eos": True}
    choice = http.post("/v1/completions", json=ignoring).json()["choices"][0]
    assert (choice["text"], choice["stop_reason"]) == (word, word)
    answer = http.post("/completion", json=ignoring).json()
    assert (answer["content"], answer["stop_type"], answer["stopping_word"]) == (word, "word", word)


@pytest.mark.parametrize("stop", ["foo", "oo(", "= f", ")"])
def test_lookahead_counts_what_plain_decoding_does_at_a_stop_string(http: httpx.Client, stop: str) -> None:
    plain, ahead = (
        complete(http, max_tokens=40, stop=[stop], return_token_ids=True, lookahead=lookahead)
        for lookahead in (False, [4, 3, 4])
    )
    assert plain["choices"] == ahead["choices"]
    assert plain["choices"][0]["stop_reason"] == stop
    assert plain["usage"]["completion_tokens"] == ahead["usage"]["completion_tokens"]


def test_a_limit_within_a_character_leaves_it_out(http: httpx.Client, tokenizer: TextTokenizer) -> None:
    lead, *_ = tokenizer.encode(CRAB)
    body = {"prompt": PROMPT, "logit_bias": {str(lead): 100}, "max_tokens": 1}
    for path in ("/v1/completions", "/completion"):
        assert "\ufffd" not in http.post(path, json=body).text
        streamed = http.post(path, json={**body, "stream": True}).text
        assert "\ufffd" not in "".join(str(json.loads(event)) for event in events(streamed) if event[0] == "{")
    assert complete(http, logit_bias={str(lead): 100}, max_tokens=3)["choices"][0]["text"] == "\ufffd\ufffd"


@pytest.mark.parametrize("streamed", [True, False])
def test_stop_words_of_bls_are_text(http: httpx.Client, streamed: bool) -> None:
    path = "/v2/models/tensorrt_llm_bls/generate_stream"

    def ask(**more: Any) -> str:
        body = {"text_input": PROMPT, "max_tokens": 24, "stream": streamed, **more}
        answers = [json.loads(event) for event in events(http.post(path, json=body).text)]
        return "".join(answer["text_output"] for answer in answers)

    whole = ask()
    assert len(whole) > 20
    for start in range(12):
        word = whole[start : start + 3]
        if whole.index(word) == start:
            assert ask(stop_words=[word, ""]) == whole[: start + 3]
            assert ask(stop_words=[word], min_length=24) == whole
