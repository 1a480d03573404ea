"""Requests as editors send them: many at once, a third of them streamed."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from tests.routing.proxies import HTTP

TOKENS = 24


@dataclass
class Load:
    """Clients that ask one request after another until they are told to end, and what became of each."""

    clients: int = 6
    asked: int = 0
    streamed: int = 0
    failed: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()

    def end_after(self, requests: int) -> None:
        """Ends once there have been so many."""
        while self.asked < requests:
            threading.Event().wait(0.2)
        self._ended.set()
        for thread in self._threads:
            thread.join(120)

    def _run(self) -> None:
        with httpx.Client(base_url=HTTP, timeout=120) as http:
            while not self._ended.is_set():
                with self._lock:
                    self.asked += 1
                    number = self.asked
                    self.streamed += number % 3 == 0
                body = {"prompt": f"def task_{number}(values):\n    ", "max_tokens": TOKENS, "ignore_eos": True}
                wrong = self._try(stream if number % 3 == 0 else whole, http, body)
                if wrong:
                    self.failed.append(f"{number}: {wrong}")

    @staticmethod
    def _try(ask: Callable[[httpx.Client, dict[str, object]], str], http: httpx.Client, body: dict[str, object]) -> str:
        try:
            return ask(http, body)
        except httpx.HTTPError as error:
            return repr(error)


def whole(http: httpx.Client, body: dict[str, object]) -> str:
    """What was wrong with the answer; empty where nothing was."""
    answer = http.post("/v1/completions", json=body)
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text}"
    given = answer.json()["usage"]["completion_tokens"]
    return "" if given == body["max_tokens"] else f"{given} tokens"


def stream(http: httpx.Client, body: dict[str, object]) -> str:
    """The same for a stream, which has to come to its end."""
    last, reason = "", None
    with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.read().decode()}"
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            last = line[6:]
            if last != "[DONE]":
                event = json.loads(last)
                if "error" in event:
                    return str(event["error"]["code"])
                reason = event["choices"][0]["finish_reason"] if event["choices"] else reason
    return "" if (last, reason) == ("[DONE]", "length") else f"cut: {last[:80]}, {reason}"
