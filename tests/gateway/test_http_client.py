"""`nimble-coder complete` over HTTP: chat, infill and plain completions, and mistakes told in one line."""

import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest

from nimble_coder.client.grpc import CompletionError
from nimble_coder.client.http import HttpClient
from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import generated, is_cut_short
from tests.standin.in_process import call

PROMPT = "import os\nimport sys\n\ndef main(argv):\n    "


def run(gateway: Serving, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "NIMBLE_HTTP_URL": gateway.addresses.http, "NIMBLE_URL": gateway.addresses.grpc}
    return call(Path(), "complete", *arguments, environment=environment)


def test_openai_and_grpc_give_the_same_text(gateway: Serving) -> None:
    over_http = run(gateway, PROMPT, "--openai", "--max-tokens", "24", "--stats")
    over_grpc = run(gateway, PROMPT, "--max-tokens", "24")
    assert over_http.returncode == 0, over_http.stderr
    assert over_http.stdout == over_grpc.stdout
    assert re.fullmatch(
        r"24 tokens in \S+ s, \d+ tokens/s, first after \d+ ms; \S+ tokens per step, .*\n", over_http.stderr
    )
    assert ", first after 0 ms" not in over_http.stderr


def test_suffix_and_chat(gateway: Serving, http: httpx.Client) -> None:
    filled = run(gateway, "def add(a, b):\n    return ", "--suffix", "\n\nprint(add(1, 2))\n", "--max-tokens", "12")
    asked = {"prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))\n", "max_tokens": 12}
    assert filled.stdout == http.post("/v1/completions", json=asked).json()["choices"][0]["text"] + "\n"
    answer = run(gateway, "Add two numbers", "--chat", "--max-tokens", "8", "--no-lookahead")
    body = {"messages": [{"role": "user", "content": "Add two numbers"}], "max_tokens": 8}
    expected = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert answer.stdout == expected + "\n"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["x", "--chat", "--suffix", "y"], 2, "exclude each other"),
        (["x", "--openai", "--http-url", "http://127.0.0.1:1"], 1, "refused"),
        (["x", "--openai", "--http-url", "nonsense"], 2, "not a service's URL"),
        (["x", "--openai", "--lookahead", "9,9,9"], 1, "exceeds the engine's"),
    ],
)
def test_mistakes_are_told_in_one_line(gateway: Serving, arguments: list[str], code: int, reason: str) -> None:
    done = run(gateway, *arguments)
    assert done.returncode == code
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_the_grpc_port_given_as_a_url_is_told_without_its_bytes(gateway: Serving) -> None:
    with pytest.raises(CompletionError, match="answers, but not in HTTP: give the URL of the HTTP port"):
        list(HttpClient(f"http://{gateway.addresses.grpc}").complete("x"))


def test_leaving_early_frees_the_slot(gateway: Serving) -> None:
    before = generated(gateway)
    texts = HttpClient(gateway.addresses.http).complete(PROMPT, max_tokens=6000)
    next(texts)
    texts.close()
    assert is_cut_short(gateway, before, 6000)


def test_a_server_that_speaks_something_else_is_told(gateway: Serving) -> None:
    a = gateway.triton.addresses
    with pytest.raises(CompletionError, match=r"127\.0\.0\.1"):
        list(HttpClient(f"http://127.0.0.1:{a.metrics_port}").complete("x"))
