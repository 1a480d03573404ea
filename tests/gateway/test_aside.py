"""What takes long on one large request leaves the event loop to the others."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from build_engine.artifact import Artifact
from nimble_coder.gateway.apis.text import respond_prompts
from nimble_coder.gateway.requests.overruled import overruled
from nimble_coder.gateway.requests.schemas.responses import ResponsesRequest
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.settings import GatewaySettings


@pytest.fixture
def service(artifact: Artifact) -> Service:
    return Service(GatewaySettings(artifact=artifact.directory, triton_grpc_port=1, triton_http_port=1))


def test_what_of_many_items_does_not_count_is_found_aside(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = list[threading.Thread]()

    def noted(asked: Any) -> Any:
        threads.append(threading.current_thread())
        return overruled(asked)

    async def body(_: int) -> bytes:
        return msgspec.json.encode({"input": [{"content": "x", "name": "y"}] * 1000})

    monkeypatch.setattr("nimble_coder.gateway.service.overruled", noted)
    exchange: Any = SimpleNamespace(body=body, extra_headers=[])
    asyncio.run(service.read(exchange, ResponsesRequest))
    assert len(threads) == 1
    assert threading.main_thread() not in threads
    assert exchange.extra_headers == [(b"x-nimble-ignored", b"input.name")]


def test_long_prompts_are_spelled_aside(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, answers = list[threading.Thread](), list[bytes]()

    def decode(ids: list[int], **_: Any) -> str:
        threads.append(threading.current_thread())
        return "x" * len(ids)

    async def respond(_: int, answer: bytes) -> None:
        answers.append(answer)

    monkeypatch.setattr(service.tokenizer, "decode", decode)
    exchange: Any = SimpleNamespace(respond=respond)
    asyncio.run(respond_prompts(service, exchange, [[1] * 20_000, [2] * 3]))
    assert threading.main_thread() not in threads
    shown = msgspec.json.decode(answers[0])
    assert shown["prompt_token_ids"] == [1] * 20_000
    assert [each["prompt"] for each in shown["prompts"]] == ["x" * 20_000, "xxx"]
