"""A client that hangs up frees its slot at once, whatever it asked with: editors do it at every keystroke."""

import json
import re
import socket
import time
import urllib.request

import httpx
import pytest

from nimble_coder.serving import Serving
from tests.gateway.conftest import active_requests, wait_until

PROMPT = "import os\nimport sys\n\ndef main(argv):\n    "
ENDLESS = {"prompt": PROMPT, "max_tokens": 6000, "ignore_eos": True}


def generated_tokens(serving: Serving) -> int:
    """All tokens the engine has generated so far; it publishes them every 250 ms."""
    with urllib.request.urlopen(serving.triton.addresses.metrics, timeout=5) as answer:
        found = re.search(r'nimble_lookahead_totals\{[^}]*kind="generated_tokens"[^}]*\} (\S+)', answer.read().decode())
    assert found
    return int(float(found[1]))


def send(serving: Serving, path: str, body: dict[str, object]) -> socket.socket:
    """A request on a connection of its own, to be closed in the middle of the answer."""
    content = json.dumps(body).encode()
    connection = socket.create_connection((serving.addresses.host, serving.addresses.http_port), timeout=30)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {**ENDLESS, "stream": True}),
        ("/v1/completions", {**ENDLESS, "stream": False}),
        ("/v1/completions", {**ENDLESS, "stream": True, "n": 3}),
        ("/v1/completions", {**ENDLESS, "stream": False, "n": 3}),
        ("/infill", {"input_prefix": PROMPT, "input_suffix": "", "n_predict": 6000, "ignore_eos": True}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 6000, "ignore_eos": True},
        ),
    ],
)
def test_hanging_up_frees_the_slots(gateway: Serving, path: str, body: dict[str, object]) -> None:
    connection = send(gateway, path, body)
    assert wait_until(lambda: active_requests(gateway) == body.get("n", 1))
    connection.close()
    assert wait_until(lambda: active_requests(gateway) == 0, 2)


def test_a_stream_that_is_dropped_costs_no_more_than_a_few_steps(gateway: Serving) -> None:
    before = generated_tokens(gateway)
    connection = send(gateway, "/v1/completions", {**ENDLESS, "stream": True, "return_token_ids": True})
    received = b""
    while received.count(b"token_ids") < 20:
        received += connection.recv(65536)
    connection.close()
    seen = sum(len(json.loads(ids)) for ids in re.findall(rb'"token_ids":(\[[\d,]*\])', received))
    assert wait_until(lambda: active_requests(gateway) == 0, 2)
    time.sleep(0.3)
    # Up to 8 tokens a step: the one that runs, the one until the 5 ms check, and what was already on its way.
    assert generated_tokens(gateway) - before - seen <= 40


def test_others_are_not_disturbed(gateway: Serving, http: httpx.Client) -> None:
    body = {"prompt": PROMPT, "max_tokens": 200, "ignore_eos": True}
    expected = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    dropped = [send(gateway, "/v1/completions", {**ENDLESS, "stream": True}) for _ in range(6)]
    with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
        lines = stream.iter_lines()
        text = json.loads(next(lines)[6:])["choices"][0]["text"]
        for connection in dropped:
            connection.close()
        for line in lines:
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["text"]
    assert text == expected


def test_the_gateway_counts_what_was_cancelled(gateway: Serving, http: httpx.Client) -> None:
    def cancelled() -> float:
        found = re.search(r"(?m)^nimble_requests_cancelled_total (\S+)", http.get("/metrics").text)
        return float(found[1]) if found else 0.0

    before = cancelled()
    connection = send(gateway, "/v1/completions", {**ENDLESS, "stream": True})
    connection.recv(1)
    connection.close()
    assert wait_until(lambda: cancelled() == before + 1, 2)
