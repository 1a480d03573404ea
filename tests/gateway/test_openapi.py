"""The OpenAPI document is valid, and describes what is really answered; `http` checks every answer against it."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import schemathesis
from schemathesis.core.failures import FailureGroup

from nimble_coder.gateway.answers.bodies.llama import LlamaResult
from nimble_coder.gateway.apis.openapi import build
from nimble_coder.gateway.apis.routes import ROUTES
from tests.gateway.conformance import check_described

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
MESSAGES = [{"role": "user", "content": "import os"}]
PROMPT = {"prompt": "import os\n", "max_tokens": 4}


def test_it_is_valid() -> None:
    schemathesis.openapi.from_dict(build(ROUTES)).validate()


def test_the_documentation_names_every_route() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
    named = set(re.findall(r"`(?:GET |POST )?(/[^`]*)`", text))
    assert [route.path for route in ROUTES if not route.path.startswith("/v2") and route.path not in named] == []


@pytest.mark.parametrize("route", [r for r in ROUTES if r.method == "GET" and "{" not in r.path], ids=lambda r: r.path)
def test_what_is_shown_is_described(http: httpx.Client, route: Any) -> None:
    assert http.get(route.path).status_code == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {**PROMPT, "n": 2, "logprobs": 1, "return_token_ids": True, "echo": True}),
        ("/v1/completions", {**PROMPT, "stop": ["\n"], "max_tokens": 64}),
        ("/v1/completions", {**PROMPT, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
        ("/v1/completions", {**PROMPT, "max_tokens": 0}),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 4, "logprobs": True, "return_token_ids": True}),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 64, "tools": [TOOL], "tool_choice": "required"}),
        ("/v1/responses", {"input": "import os", "max_output_tokens": 4}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 64, "tools": [TOOL], "tool_choice": "required"}),
        ("/v1/fim/completions", {"prompt": "a", "suffix": "b", "max_tokens": 4}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "n_predict": 4, "n_cmpl": 2, "return_tokens": True}),
        ("/completion", {"prompt": "import os\n", "n_predict": 64, "stop": ["\n"]}),
        (
            "/completion",
            {"prompt": "import os\n", "n_predict": 2, "n_cmpl": 2, "response_fields": ["timings/prompt_n"]},
        ),
        ("/tokenize", {"prompt": "a", "with_pieces": True, "return_token_strs": True}),
        ("/detokenize", {"tokens": [300, 301]}),
        ("/v1/completions/render", {"prompt": ["a", "b"]}),
        ("/v1/chat/completions/render", {"messages": MESSAGES}),
        ("/infill/render", {"input_prefix": "a"}),
        ("/v2/models/ensemble/generate", {"text_input": "import os", "max_tokens": 2}),
        ("/v2/models/ensemble/generate_stream", {"text_input": "import os", "max_tokens": 2, "stream": True}),
    ],
)
def test_what_is_generated_or_read_is_described(
    http: httpx.Client, path: str, body: dict[str, Any], stream: bool
) -> None:
    answer = http.post(path, json={"stream": stream, **body})
    assert answer.status_code == 200, answer.text


def test_a_whole_llama_result_has_every_field(http: httpx.Client) -> None:
    """The document cannot tell it from a choice of `response_fields`."""
    answer = http.post("/infill", json={"input_prefix": "a", "n_predict": 2})
    msgspec.json.decode(answer.content, type=LlamaResult)
    assert set(answer.json()) == set(LlamaResult.__struct_fields__)


CHUNK = {"object": "text_completion", "id": "x", "created": 1, "model": "m", "choices": []}
HEADERS = {
    "x-request-id": "x",
    "x-nimble-decoding": "greedy",
    "x-nimble-drafting": "none",
    "x-nimble-lookahead": "1,1,0",
}
STREAMED = {**HEADERS, "content-type": "text/event-stream; charset=utf-8"}


@pytest.mark.parametrize(
    ("status", "headers", "content", "is_described"),
    [
        (200, STREAMED, f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n", True),
        (200, STREAMED, f"data: {json.dumps({**CHUNK, 'more': 1})}\n\n", False),
        (200, STREAMED, "data: text\n\n", False),
        (200, {**STREAMED, "x-nimble-decoding": "beam"}, "data: [DONE]\n\n", False),
        (200, {**HEADERS, "content-type": "application/json"}, json.dumps(CHUNK), False),  # no usage
        (409, {**HEADERS, "content-type": "application/json"}, "{}", False),
    ],
)
def test_the_check_can_fail(status: int, headers: dict[str, str], content: str, is_described: bool) -> None:
    request = httpx.Request("POST", "http://x/v1/completions")
    answer = httpx.Response(status, headers=headers, content=content, request=request)
    answer.elapsed = timedelta(0)
    if is_described:
        check_described(answer)
        return
    with pytest.raises(FailureGroup):
        check_described(answer)
