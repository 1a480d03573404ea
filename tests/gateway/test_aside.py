"""What takes long on one large request leaves the event loop to the others."""

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from build_engine.artifact import Artifact
from nimble_coder.gateway.answers import calling as calling_module
from nimble_coder.gateway.answers.calling import squeeze
from nimble_coder.gateway.answers.tools import ToolCallParser
from nimble_coder.gateway.apis import fim, openai, responses
from nimble_coder.gateway.apis.openai import read_chat
from nimble_coder.gateway.apis.text import respond_prompts
from nimble_coder.gateway.asgi.route import Handler
from nimble_coder.gateway.aside import LONG
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.requests.overruled import overruled
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.gateway.requests.schemas.responses import ResponsesRequest
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.settings import GatewaySettings
from tests.gateway.asking import SENT
from tests.gateway.turns import turns_of_others


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


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_many_functions_are_looked_at_aside(service: Service, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    offered = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(100)]
    asked = {"messages": [{"role": "user", "content": "x"}], "tools": offered, "tool_choice": choice}
    body = msgspec.json.encode({**asked, "user": "x" * LONG})
    threads = list[threading.Thread]()

    def noted(text: str) -> str:
        threads.append(threading.current_thread())
        return squeeze(text)

    async def read(_: int) -> bytes:
        return body

    monkeypatch.setattr(calling_module, "squeeze", noted)
    exchange: Any = SimpleNamespace(body=read, extra_headers=[], client="x")
    _, _, calling, _ = asyncio.run(read_chat(service, exchange))
    parser = ToolCallParser(calling)
    pieces = [
        *parser.push('<tool_call>\n{"name": "f7", "arguments": {"a": 1'.removeprefix(calling.opening)),
        *parser.finish(),
    ]
    assert [piece.name for piece in pieces if piece.name] == ["f7"]
    assert threads
    assert threading.main_thread() not in threads
