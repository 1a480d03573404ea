"""What people do with the service, on the real model."""

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from build_engine.artifact import Artifact
from build_engine.checkpoint import Checkpoint
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import generate
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.gateway.prompts.fim import Infill
from nimble_coder.text.tokenizer import TextTokenizer
from tests.real_model.conftest import WIDEST
from tests.real_model.material import HOLES, REPOSITORY_HOLE, TIME, WEATHER, agent_tools, sources, user

SCRIPTS = {
    "emoji": "moods = ['😀', '😃', '😄', '😁', '😆', '😅', '😂', '🤣', '😊', '😇', '🙂', '🙃', '😉', '😌', '😍',",
    "CJK": "weekdays = {'Monday': '星期一', 'Tuesday': '星期二', 'Wednesday': '星期三', 'Thursday': '",
    "runes": "futhark = ['ᚠ', 'ᚢ', 'ᚦ', 'ᚨ', 'ᚱ', 'ᚲ', 'ᚠ', 'ᚢ', 'ᚦ', 'ᚨ', 'ᚱ', 'ᚲ', 'ᚠ', 'ᚢ', 'ᚦ', '",
}


def post(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def streamed(http: httpx.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream that ends as it should."""
    with http.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def test_the_model_is_called_after_its_checkpoint(http: httpx.Client, checkpoint: Checkpoint) -> None:
    assert http.get("/v1/models").json()["data"][0]["id"].lower() == checkpoint.name.lower()


def infill(http: httpx.Client, hole: Infill) -> dict[str, Any]:
    context = [{"filename": file.filename, "text": file.text} for file in hole.context]
    return post(http, "/infill", input_prefix=hole.prefix, input_suffix=hole.suffix, input_extra=context, n_predict=48)


@pytest.mark.parametrize("language", HOLES)
def test_an_infill_ends_by_itself(http: httpx.Client, language: str) -> None:
    """Where the code goes on with the suffix, not at the limit of tokens."""
    answer = infill(http, HOLES[language])
    assert (answer["content"], answer["stop_type"]) == ("i", "eos")


def test_an_infill_of_a_repository_uses_what_another_file_defines(http: httpx.Client) -> None:
    """That it ends by itself cannot be asked of 0.5B with 4-bit rounding, which writes the suffix once more."""
    assert infill(http, REPOSITORY_HOLE)["content"].startswith('find_book("')
    alone = replace(REPOSITORY_HOLE, context=[])
    assert not infill(http, alone)["content"].startswith('find_book("')


def test_a_tool_is_called_and_its_result_used(http: httpx.Client) -> None:
    messages = user("What is the weather in Paris now?")
    first = post(http, "/v1/chat/completions", messages=messages, tools=[WEATHER, TIME], max_tokens=96, temperature=0)
    choice = first["choices"][0]
    assert choice["finish_reason"] == "tool_calls", first
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    messages += [choice["message"], {"role": "tool", "tool_call_id": call["id"], "content": '{"celsius": 21}'}]
    second = post(http, "/v1/chat/completions", messages=messages, tools=[WEATHER, TIME], max_tokens=96, temperature=0)
    assert "21" in second["choices"][0]["message"]["content"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_characters_of_several_tokens_are_streamed_whole(http: httpx.Client, script: str) -> None:
    body = {"prompt": SCRIPTS[script], "max_tokens": 48, "temperature": 0}
    whole = post(http, "/v1/completions", **body)["choices"][0]["text"]
    parts = [each["choices"][0]["text"] for each in streamed(http, "/v1/completions", **body) if each["choices"]]
    assert "".join(parts) == whole
    assert any(ord(letter) > 0x1000 for letter in whole), whole
    assert not any("\ufffd" in part for part in parts), parts


def test_a_stop_string_inside_accepted_drafts_ends_the_answer_where_plain_decoding_does(http: httpx.Client) -> None:
    asked = user("Count from 1 to 40, one number a line, as '<number>. line'.")
    body: dict[str, Any] = {"messages": asked, "max_tokens": 120, "temperature": 0}
    text = post(http, "/v1/chat/completions", **body)["choices"][0]["message"]["content"]
    for stop in (text[60:64], text[100:107], text[151:153]):
        answers = [
            post(http, "/v1/chat/completions", **body, stop=[stop], lookahead=lookahead)
            for lookahead in ([4, 5, 4], [1, 4, 1], False)
        ]
        for answer in answers:
            assert answer["choices"][0]["message"]["content"] == text[: text.index(stop)]
            assert answer["choices"][0]["finish_reason"] == "stop"
            assert answer["usage"] == answers[-1]["usage"]


def system(tokenizer: TextTokenizer, tokens: int) -> dict[str, str]:
    """An agent's first message; a longer one begins with a shorter one's tokens."""
    text = f"You are a coding agent. The workspace's largest files:\n\n{sources(tokenizer, tokens)}"
    return {"role": "system", "content": text}


def test_a_prompt_of_4000_tokens_that_begins_alike_is_not_computed_again(
    http: httpx.Client, artifact: Artifact, tokenizer: TextTokenizer
) -> None:
    first, again = (
        post(
            http,
            "/v1/chat/completions",
            messages=[system(tokenizer, 4000), *user(question)],
            max_tokens=8,
            temperature=0,
            return_token_ids=True,
        )
        for question in ("Which function reads the command line?", "Which class holds an argument? Name it only.")
    )
    prompt = again["prompt_token_ids"]
    assert len(prompt) == again["usage"]["prompt_tokens"] > 4000
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] < 1000
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0.9 * len(prompt)
    engine = TorchEngine(artifact.engine, WIDEST, TorchEngineOptions(device="cpu", reuse_kv_cache=False))
    try:
        fresh = generate(engine, [Request(prompt, 8)])[0].token_ids
    finally:
        engine.shutdown()
    ids = again["choices"][0]["token_ids"]
    assert ids
    assert fresh[: len(ids)] == ids


def test_an_agents_first_prompt_of_15000_tokens_with_ten_tools_is_answered(
    http: httpx.Client, tokenizer: TextTokenizer
) -> None:
    """It begins with the prompt of 4,000 tokens above, so a quarter of it is there already where that test has run."""
    messages = [system(tokenizer, 14000), *user("Which function reads the command line? Name it only.")]
    answer = post(http, "/v1/chat/completions", messages=messages, tools=agent_tools(), max_tokens=24, temperature=0)
    assert answer["usage"]["prompt_tokens"] > 15000
    assert answer["choices"][0]["finish_reason"] in ("stop", "tool_calls", "length")
    assert answer["usage"]["completion_tokens"] > 0
