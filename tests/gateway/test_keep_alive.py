"""A stream says something while its answer has no text yet: its head soon, and comments from time to time."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from build_engine.artifact import Artifact
from nimble_coder.gateway import exchange as exchanges
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import EVENT_STREAM, KEEP_ALIVE, Exchange
from nimble_coder.processes.triton import TritonServer
from tests.gateway.conftest import engine_gauge, stand_in_gateway

STEP = 0.25
WORDS = 80
HELD = "word " * WORDS + "end"
"""A stop string that the stand-in's text begins with for so many tokens: none of them can be sent before."""


@pytest.fixture(scope="module")
def silent(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonServer, httpx.Client]]:
    """A gateway whose engine gives a word every `STEP`."""
    place = tmp_path_factory.mktemp("silent")
    with (
        stand_in_gateway(artifact, place, 1, STEP, "word " * WORDS) as (triton, gateways),
        httpx.Client(base_url=gateways.addresses.http, timeout=60) as client,
    ):
        yield triton, client


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/infill", {"input_prefix": "x", "input_suffix": "y"}),
    ],
)
def test_the_head_comes_long_before_the_first_text(
    silent: tuple[TritonServer, httpx.Client], path: str, body: dict[str, Any]
) -> None:
    triton, client = silent
    before = engine_gauge(triton, "generated_tokens")
    asked = {**body, "max_tokens": 200, "stop": [HELD], "stream": True, "ignore_eos": True}
    with client.stream("POST", path, json=asked) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-nimble-decoding"] == "greedy"
        assert engine_gauge(triton, "generated_tokens") - before < WORDS - 1


def test_the_head_of_tritons_own_stream_does_not_wait_for_its_first_event(artifact: Artifact, tmp_path: Path) -> None:
    """The text is a character of several tokens, none of which the model can send before the last."""
    with (
        stand_in_gateway(artifact, tmp_path, 1, 4.0, "\U0001f701") as (triton, gateways),
        httpx.Client(base_url=gateways.addresses.http, timeout=60) as client,
    ):
        before = engine_gauge(triton, "generated_tokens")
        asked = {"text_input": "x", "max_tokens": 4, "stream": True}
        with client.stream("POST", "/v2/models/tensorrt_llm_bls/generate_stream", json=asked) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert engine_gauge(triton, "generated_tokens") - before == 1
            events = [line for line in answer.iter_lines() if line.startswith("data: ")]
        assert "\U0001f701" in "".join(json.loads(event[6:])["text_output"] for event in events)
        refused = client.post("/v2/models/tensorrt_llm_bls/generate_stream", json={"text_input": "x"})
        assert refused.status_code == 400


def run(work: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What an exchange sends while `work` runs inside a stream whose times are short."""
    monkeypatch.setattr(exchanges, "HEAD_SECONDS", 0.01)
    monkeypatch.setattr(exchanges, "QUIET_SECONDS", 0.02)
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def answer() -> None:
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
        exchange = Exchange(scope, receive, send)
        try:
            async with exchange.kept_alive(EVENT_STREAM, []):
                await work(exchange, sent)
        except ApiError as error:
            await exchange.fail(error)

    asyncio.run(answer())
    return sent


async def until(sent: list[dict[str, Any]], count: int) -> None:
    """Waits for so many messages."""
    while len(sent) < count:
        await asyncio.sleep(0.001)


def test_a_silent_stream_has_its_head_once_and_then_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(exchange: Exchange, sent: list[dict[str, Any]]) -> None:
        await until(sent, 3)

    head, *comments = run(work, monkeypatch)
    assert (head["type"], head["status"]) == ("http.response.start", 200)
    assert [comment["body"] for comment in comments] == [KEEP_ALIVE] * 2


def test_a_refusal_that_comes_early_keeps_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(exchange: Exchange, sent: list[dict[str, Any]]) -> None:
        raise ApiError(429, "full")

    head, body = run(work, monkeypatch)
    assert (head["status"], b"full" in body["body"]) == (429, True)


def test_one_that_comes_late_is_the_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(exchange: Exchange, sent: list[dict[str, Any]]) -> None:
        await until(sent, 1)
        raise ApiError(503, "lost")

    head, *_, last = run(work, monkeypatch)
    assert head["status"] == 200
    assert last["body"].startswith(b"data: {") and last["body"].endswith(b"data: [DONE]\n\n")
