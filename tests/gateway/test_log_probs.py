"""Log probabilities: of the chosen tokens, of the most likely ones in their place, and of an echoed prompt."""

import asyncio
import unicodedata
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import httpx
import pytest
from tritonclient.grpc import service_pb2

from build_engine.artifact import Artifact
from nimble_coder.contract.encoding import OF_PROMPT, Generation
from nimble_coder.contract.response import Ranked
from nimble_coder.gateway.answers.chat_wire import ChatWire
from nimble_coder.gateway.answers.transcript import Ending, Transcript
from nimble_coder.gateway.answers.wire import CompletionWire, Wire
from nimble_coder.gateway.delivery import Answer, Delivery
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.job import Job
from nimble_coder.gateway.prompts.encoding import PromptEncoder
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.settings import GatewaySettings
from nimble_coder.gateway.upstream.token_stream import Step, TokenStreams
from nimble_coder.text.tokenizer import TextTokenizer
from tests.gateway.conftest import events
from tests.gateway.turns import turns_of_others

PROMPT = "import os\nimport sys\n\ndef main(argv):\n"


def choice(http: httpx.Client, **more: Any) -> dict[str, Any]:
    answer = http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 6, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["choices"][0]
    return found


@pytest.mark.parametrize("count", [1, 5, 20])
def test_as_many_alternatives_as_asked_for_and_the_chosen_token(http: httpx.Client, count: int) -> None:
    scores = choice(http, logprobs=count)["logprobs"]
    assert len(scores["top_logprobs"]) == len(scores["tokens"]) == 6
    for token, value, top in zip(scores["tokens"], scores["token_logprobs"], scores["top_logprobs"], strict=True):
        assert max(top, key=top.__getitem__) == token  # decoding is greedy
        assert top[token] == value
        assert len(top) <= count
    assert any(len(top) == count for top in scores["top_logprobs"])


def test_none_but_the_chosen_where_none_are_asked_for(http: httpx.Client) -> None:
    for count in (0, True):
        scores = choice(http, logprobs=count)["logprobs"]
        assert scores["top_logprobs"] is None
        assert scores["token_logprobs"] == choice(http, logprobs=3)["logprobs"]["token_logprobs"]


@pytest.mark.parametrize("stream", [False, True])
def test_no_end_before_min_tokens_and_the_log_probabilities_of_all(http: httpx.Client, stream: bool) -> None:
    """The end is the likeliest token at every place but where it is forbidden; log probabilities are before that."""
    fields = {"min_tokens": 5, "max_tokens": 9, "logprobs": 2, "stop_token_ids": [5], "logit_bias": {"5": 100}}
    body = {"prompt": PROMPT, **fields, "stream": stream}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    chunks = events(answer.text)[:-1] if stream else [answer.text]
    choices = [httpx.Response(200, text=chunk).json()["choices"][0] for chunk in chunks]
    scores = [c["logprobs"] for c in choices if c["logprobs"]]
    assert choices[-1]["finish_reason"] == "stop"
    plain = choice(http, max_tokens=5, logprobs=2)["logprobs"]
    for name in ("tokens", "token_logprobs", "top_logprobs"):
        found = [value for each in scores for value in each[name]]
        assert found == plain[name]


def test_a_token_that_was_drawn_is_among_its_alternatives(http: httpx.Client) -> None:
    scores = choice(http, logprobs=1, temperature=3, seed=1)["logprobs"]
    for token, value, top in zip(scores["tokens"], scores["token_logprobs"], scores["top_logprobs"], strict=True):
        assert top[token] == pytest.approx(value)
        assert len(top) <= 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_chats_alternatives_are_in_order(http: httpx.Client, stream: bool) -> None:
    messages = [{"role": "user", "content": "def add(a, b):"}]
    body = {"messages": messages, "max_tokens": 4, "logprobs": True, "top_logprobs": 3}
    if stream:
        lines = http.post("/v1/chat/completions", json={**body, "stream": True}).text
        chunks = [httpx.Response(200, text=event).json() for event in events(lines) if event != "[DONE]"]
        scored = [c["choices"][0]["logprobs"] for c in chunks if c["choices"] and c["choices"][0]["logprobs"]]
        content = [entry for each in scored for entry in each["content"]]
    else:
        content = http.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 4
    for entry in content:
        values = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert entry["top_logprobs"][0] == {key: entry[key] for key in ("token", "logprob", "bytes")}


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/completions", {"prompt": "x", "logprobs": 21}),
        ("/v1/completions", {"prompt": "x", "logprobs": -1}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 21},
        ),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "logprobs": 3}),
    ],
)
def test_more_than_there_are_and_alternatives_alone_are_refused(
    http: httpx.Client, path: str, more: dict[str, Any]
) -> None:
    assert http.post(path, json={"max_tokens": 1, **more}).status_code == 400


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_an_echoed_prompt_has_the_log_probabilities_that_its_tokens_have_as_answers(
    http: httpx.Client, tokenizer: TextTokenizer, stream: bool, max_tokens: int
) -> None:
    ids = tokenizer.encode(PROMPT)
    body = {"prompt": PROMPT, "echo": True, "logprobs": 2, "max_tokens": max_tokens}
    if stream:
        lines = http.post("/v1/completions", json={**body, "stream": True}).text
        chunks = [httpx.Response(200, text=event).json()["choices"] for event in events(lines) if event != "[DONE]"]
        text = "".join(c[0]["text"] for c in chunks)
        runs = [c[0]["logprobs"] for c in chunks if c[0]["logprobs"]]
        scores = {key: [value for run in runs for value in run[key]] for key in runs[0]}
    else:
        answer = choice(http, **body)
        text, scores = answer["text"], answer["logprobs"]
    assert text.startswith(PROMPT)
    assert "".join(scores["tokens"]) == text
    assert len(scores["tokens"]) == len(ids) + max_tokens
    assert scores["text_offset"] == [len("".join(scores["tokens"][:i])) for i in range(len(scores["tokens"]))]
    assert (scores["token_logprobs"][0], scores["top_logprobs"][0]) == (None, None)
    for place in (1, len(ids) // 2, len(ids) - 1):
        # Forced to say the prompt's own next token, the model tells the same of it.
        one = {"prompt": ids[:place], "max_tokens": 1, "logprobs": 2, "logit_bias": {str(ids[place]): 100}}
        said = choice(http, **one)["logprobs"]
        assert said["token_logprobs"][0] == pytest.approx(scores["token_logprobs"][place], abs=1e-3)
        assert said["top_logprobs"][0].keys() == scores["top_logprobs"][place].keys()


def test_a_prompt_that_is_in_the_cache_already_is_scored_all_the_same(http: httpx.Client) -> None:
    body = {"prompt": PROMPT * 20, "echo": True, "logprobs": 1, "max_tokens": 1}
    first, second = choice(http, **body), choice(http, **body)
    assert len(first["logprobs"]["tokens"]) > 64
    assert None not in first["logprobs"]["token_logprobs"][1:]
    assert first == second


def test_a_prompt_of_one_token_has_none_to_tell(http: httpx.Client) -> None:
    scores = choice(http, prompt=[70], echo=True, logprobs=1, max_tokens=1)["logprobs"]
    assert scores["token_logprobs"][0] is None
    assert len(scores["tokens"]) == 2


@pytest.mark.parametrize(
    ("more", "echo"),
    [
        ({"prompt": "e\u0301 = 1"}, "e\u0301 = 1"),  # the tokenizer composes it
        ({"prompt": "<|im_start|>user\n"}, "<|im_start|>user\n"),
        ({"prompt": "def f(", "suffix": "\n"}, "def f("),
        ({"prompt": ["def f("], "suffix": "\n"}, "def f("),
        (
            {"prompt": "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "suffix": ""},
            "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
        ),
        ({"prompt": [70, 71]}, None),
    ],
)
def test_what_is_echoed_is_what_was_sent(
    http: httpx.Client, tokenizer: TextTokenizer, more: dict[str, Any], echo: str | None
) -> None:
    expected = tokenizer.decode([70, 71]) if echo is None else echo
    plain = choice(http, **more)["text"]
    assert choice(http, **more, echo=True)["text"] == expected + plain
    lines = http.post("/v1/completions", json={**more, "max_tokens": 6, "echo": True, "stream": True}).text
    chunks = [httpx.Response(200, text=event).json()["choices"] for event in events(lines) if event != "[DONE]"]
    assert "".join(c[0]["text"] for c in chunks) == expected + plain


@pytest.mark.parametrize(
    ("more", "last"),
    [
        ({"prompt": "e\u0301 = '\u2126' # A\u030a🦀\n"}, None),
        ({"prompt": ["a = 1", "<|im_start|>e\u0301<|im_end|>\nb"], "n": 2}, None),
        ({"prompt": PROMPT}, 5),
    ],
    ids=["composed", "several", "truncated"],
)
def test_offsets_are_places_in_what_is_echoed(
    http: httpx.Client, encoder: PromptEncoder, more: dict[str, Any], last: int | None
) -> None:
    body = {**more, "echo": True, "logprobs": 0, "max_tokens": 2, "truncate_prompt_tokens": last}
    sent = [more["prompt"]] if isinstance(more["prompt"], str) else [p for p in more["prompt"] for _ in range(2)]
    choices = http.post("/v1/completions", json=body).json()["choices"]
    for found, prompt in zip(choices, sent, strict=True):
        places, tokens = found["logprobs"]["text_offset"][:-2], found["logprobs"]["tokens"][:-2]
        assert len(places) == (last or len(encoder.raw(prompt)))
        for start, end, token in zip(places, [*places[1:], len(prompt)], tokens, strict=True):
            assert "\ufffd" in token or unicodedata.normalize("NFC", found["text"][start:end]) == token
        assert found["logprobs"]["text_offset"][-2] == len(prompt)
        assert last is None or prompt.endswith("".join(tokens))


def test_log_probabilities_of_a_template_s_tokens_are_refused(http: httpx.Client) -> None:
    body = {"prompt": "def f(", "suffix": "\n", "echo": True, "logprobs": 1, "max_tokens": 1}
    answer = http.post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")


def test_each_of_several_prompts_is_echoed(http: httpx.Client) -> None:
    prompts = ["a = 1\n", "e\u0301 = 2\n"]
    answer = http.post("/v1/completions", json={"prompt": prompts, "max_tokens": 1, "echo": True, "n": 2}).json()
    for found, prompt in zip(answer["choices"], [p for p in prompts for _ in range(2)], strict=True):
        assert found["text"].startswith(prompt)


def test_offsets_count_whole_characters_and_no_tokens_that_do_not_show(tokenizer: TextTokenizer) -> None:
    ids = [*tokenizer.encode("a🦀b"), tokenizer.end_ids[0], *tokenizer.encode("日本\n")]
    ranked: list[Ranked] = [[(i, -1.0)] for i in ids]
    transcript = Transcript(tokenizer, Ending(len(ids), frozenset()))
    text = transcript.push(Step(ids, True, [-1.0] * len(ids), ranked)).text
    wire = CompletionWire("x", "m", tokenizer, False, False, [""], [[1]])
    scores = wire._of_all(0, transcript)
    assert scores
    places = scores.text_offset
    assert all(0 <= b - a <= 1 or tokenizer.token_bytes(i) for i, (a, b) in zip(ids, pairwise(places), strict=False))
    for place, token in zip(places, ids, strict=True):
        piece = tokenizer.token_bytes(token).decode(errors="replace")
        if "\ufffd" not in piece and token not in tokenizer.special_ids:
            assert text[place:].startswith(piece)


RANKED: Ranked = [(token, -1.0 - token) for token in range(20)]


async def send_answer(artifact: Artifact, places: int, route: str, stream: bool) -> None:
    """An answer that has the log probabilities of so many tokens: a chat's own, a completion's of its prompt."""
    service = Service(GatewaySettings(artifact=artifact.directory, triton_grpc_port=1, triton_http_port=1))
    ids = [5] * places
    last = Step([5] * places, is_final=True, log_probs=[-1.0] * places, top=[RANKED] * places)
    echoed = Step([5], is_final=True, log_probs=[-1.0], top=[RANKED], prompt=[(-1.0, RANKED)] * (places - 1))

    async def generate(*_: object) -> AsyncIterator[Step]:
        yield last if route == "chat" else echoed

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()  # the client stays
        raise AssertionError

    async def send(_: Any) -> None:
        """What is sent is not looked at."""

    wire: Wire = ChatWire("id", "m", service.tokenizer.token_bytes)
    if route == "completions":
        wire = CompletionWire("id", "m", service.tokenizer, False, False, ["x"], [ids], [[*range(places)]])
    service.streams.generate = generate  # type: ignore[method-assign, assignment]
    job = Job(Generation(ids, places, (), None, streaming=stream), Ending(places, frozenset()))
    exchange = Exchange({"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send)
    await Answer(service, exchange, [job], Delivery(wire, places, stream)).send()


@pytest.mark.parametrize(("route", "stream"), [("chat", False), ("completions", False), ("completions", True)])
def test_thousands_of_log_probabilities_are_written_beside_the_event_loop(
    artifact: Artifact, route: str, stream: bool
) -> None:
    few, many = (asyncio.run(turns_of_others(send_answer(artifact, places, route, stream))) for places in (2, 10_000))
    assert few < many


async def read_answer(places: int) -> None:
    """One message with the log probabilities of so long a prompt."""
    message = service_pb2.ModelStreamInferResponse()
    width = 1 + 2 * len(RANKED)
    message.infer_response.outputs.add(name=OF_PROMPT, datatype="FP32", shape=[1, places, width])
    message.infer_response.raw_output_contents.append(bytes(4 * width * places))
    message.infer_response.parameters["triton_final_response"].bool_param = True

    class OneMessage:
        async def call(self, *_: object) -> "OneMessage":
            return self

        async def read(self) -> list[bytes]:
            return [message.SerializeToString()]

    streams = TokenStreams("127.0.0.1", 1)
    streams._channel = OneMessage()  # type: ignore[assignment]
    async for step in streams.generate(Generation([5], 1, (), None), "id"):
        assert len(step.prompt) == places


def test_the_log_probabilities_of_a_long_prompt_are_read_beside_the_event_loop() -> None:
    few, many = (asyncio.run(turns_of_others(read_answer(places))) for places in (2, 10_000))
    assert few < many
