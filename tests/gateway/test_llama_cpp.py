"""What llama.cpp's clients read of `/completion` and send to other routes."""

import json
import uuid
from typing import Any

import httpx
import pytest

from nimble_coder.gateway.prompts.encoding import PromptEncoder
from tests.gateway.completing import BODIES
from tests.gateway.conftest import events

PROMPT = "import os\nimport sys\n\ndef main(argv):\n    "
OTHER = "class Stack:\n    "
ASKED = [*BODIES.items(), ("/v1/completions", {"prompt": PROMPT, "suffix": "\n"})]


def post(http: httpx.Client, body: dict[str, Any]) -> Any:
    answer = http.post("/completion", json={"n_predict": 12, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(http: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = http.post("/completion", json={"n_predict": 12, **body, "stream": True})
    assert answer.status_code == 200, answer.text
    return [json.loads(event) for event in events(answer.text)]


def test_ids_amid_texts_are_one_prompt(http: httpx.Client, encoder: PromptEncoder) -> None:
    ids = encoder.plain(PROMPT)
    parts = [*ids[:3], encoder.plain("x")[0], "def f():\n", *ids[:2], "<|file_sep|>"]
    texts = [encoder.encode(encoder.split(part)) if isinstance(part, str) else [part] for part in parts]
    whole = post(http, {"prompt": [i for own in texts for i in own]})
    mixed = post(http, {"prompt": parts})
    assert (mixed["content"], mixed["prompt"]) == (whole["content"], whole["prompt"])
    assert mixed["prompt"].endswith("<|file_sep|>")


def test_a_list_of_prompts_has_a_list_of_answers(http: httpx.Client, encoder: PromptEncoder) -> None:
    prompts = [PROMPT, encoder.plain(OTHER), [*encoder.plain(OTHER), " x"]]
    alone = [post(http, {"prompt": prompt}) for prompt in prompts]
    together = post(http, {"prompt": prompts})
    same = ("content", "prompt", "tokens_evaluated", "stop_type")
    assert [[answer[key] for key in same] for answer in together] == [[a[key] for key in same] for a in alone]
    assert [answer["index"] for answer in together] == [0, 1, 2]
    chunks = stream(http, {"prompt": prompts, "n_cmpl": 2})
    for index in range(6):
        text = "".join(chunk["content"] for chunk in chunks if chunk["index"] == index)
        assert text == alone[index // 2]["content"]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ([], "prompt is missing"),
        ([1, [2, 3]], "a list of their own"),
        (["x"] * 129, "128 is the limit"),
        ([99999, "x"], "not a token id"),
        ([["x", 99999]], "not a token id"),
        ([[]], "prompt is empty"),
        ([""], "prompt is empty"),
        ([[[1]]], "prompt[0][0] is a list: send a whole number or a text"),
    ],
)
def test_prompts_that_are_none_are_refused(http: httpx.Client, prompt: Any, reason: str) -> None:
    refused = http.post("/completion", json={"prompt": prompt, "n_predict": 1})
    assert refused.status_code == 400
    assert reason in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/completion", "/infill"])
def test_a_stop_string_that_spells_a_control_token_is_the_stopping_word(http: httpx.Client, path: str) -> None:
    word = "<|im_start|>"
    body = {"prompt": PROMPT, "n_predict": 4, "stop": [word], "logit_bias": [[word, 100]]}
    answer = http.post(path, json=body).json()
    assert (answer["content"], answer["stop_type"], answer["stopping_word"]) == ("", "word", word)


@pytest.mark.parametrize("n_predict", [0, 1, 3, 30])
def test_a_streams_end_says_what_a_whole_answer_says(http: httpx.Client, n_predict: int) -> None:
    body = {"prompt": "import os\n", "n_predict": n_predict, "seed": 7, "return_tokens": True}
    whole = post(http, body)
    *chunks, last = stream(http, body)
    assert [i for chunk in chunks for i in chunk["tokens"]] == whole["tokens"]
    changes = ("content", "tokens", "timings")
    kept = {key: value for key, value in whole.items() if key not in changes}
    kept["generation_settings"]["stream"] = True
    assert {key: value for key, value in last.items() if key not in changes} == kept
    assert whole["has_new_line"] == ("\n" in whole["content"])
    assert (whole["prompt"], whole["generation_settings"]["seed"]) == ("import os\n", 7)


def test_a_streams_end_has_the_fields_that_are_asked_for(http: httpx.Client) -> None:
    body = {"prompt": PROMPT, "response_fields": ["timings/prompt_n", "generation_settings/seed", "stop"], "seed": -1}
    last = stream(http, body)[-1]
    assert list(last) == body["response_fields"]
    assert (last["stop"], last["generation_settings/seed"]) == (True, 2**32 - 1)


def test_both_a_line_and_none_occur_among_the_lengths_above(http: httpx.Client) -> None:
    assert {post(http, {"prompt": "import os\n", "n_predict": n})["has_new_line"] for n in (1, 30)} == {False, True}


@pytest.mark.parametrize(("path", "body"), [each for each in ASKED if each[0].startswith("/v1/")])
def test_n_predict_is_max_tokens_where_that_is_not_said(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    def tokens(**fields: int) -> int:
        answer = http.post(path, json={**body, "ignore_eos": True, **fields}).json()
        return int(answer["usage"]["completion_tokens"])

    assert [tokens(n_predict=0), tokens(n_predict=3), tokens(n_predict=3, max_tokens=2)] == [0, 3, 2]


@pytest.mark.parametrize(("path", "body"), ASKED)
@pytest.mark.parametrize("asked", [-1, -2, 2**53 - 1, 2**63 - 1])
def test_all_that_fits_can_be_asked_for_by_either_name(
    http: httpx.Client, path: str, body: dict[str, Any], asked: int
) -> None:
    """200 tokens and a stop behind them tell enough: no route's default is as long but a chat's, which is all."""

    def answer(**fields: Any) -> Any:
        sent = http.post(path, json={**body, "stop_token_ids": [5], "logit_bias": {"5": -100}, **fields})
        assert sent.status_code == 200, sent.text
        return sent.json()

    for name in ("max_tokens", "n_predict"):
        found = answer(**{name: asked, "min_tokens": 200, "logit_bias": {"5": 100}})
        assert (found["usage"]["completion_tokens"] if "usage" in found else found["tokens_predicted"]) == 200


@pytest.mark.parametrize(("path", "name"), [("/completion", "max_tokens"), ("/infill", "n_predict")])
def test_an_answer_of_no_tokens_is_streamed_too(http: httpx.Client, path: str, name: str) -> None:
    answer = http.post(path, json={"prompt": "x = 1", name: 0, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [json.loads(event)["stop"] for event in events(answer.text)] == [True]


@pytest.mark.parametrize("path", ["/v1/completions", "/completion"])
def test_an_answer_of_no_tokens_warms_the_cache(http: httpx.Client, path: str) -> None:
    prompt = f"# {uuid.uuid4()}\n" * 20
    before = http.post(path, json={"prompt": prompt, "n_predict": 0}).json()
    assert (before["content"] if path == "/completion" else before["choices"][0]["text"]) == ""
    usage = http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 2}).json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert usage["prompt_tokens"] - 33 <= cached < usage["prompt_tokens"]


def test_cached_tokens_are_those_that_nothing_was_computed_for(http: httpx.Client) -> None:
    """Several answers to one prompt share what the first of them computes: that is not spared."""
    body = {"prompt": f"# {uuid.uuid4()}\n" * 20, "max_tokens": 2, "n": 3}
    first, second = (http.post("/v1/completions", json=body).json()["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] < 33
    assert second["prompt_tokens_details"]["cached_tokens"] > first["prompt_tokens"] // 2
    options = {"include_usage": True}
    streamed = http.post("/v1/completions", json={**body, "stream": True, "stream_options": options})
    last = json.loads(events(streamed.text)[-2])
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] > first["prompt_tokens"] // 2
