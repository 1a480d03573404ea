"""Tokens leave as they come: the first at once, a step's together; and no request keeps others waiting."""

import json
import threading
from collections.abc import Iterator

import httpx
import pytest

from build_engine.artifact import Artifact
from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import stand_in_gateway

STEP = 1.0
"""Seconds of a decoding step of the stand-in: much longer than the way through the gateway, even on a busy machine."""
LARGE = "x = [1, 2, 3]\n" * 100_000
"""1.4 MB: all that `/v2` takes, and seconds of tokenising."""


@pytest.fixture(scope="module")
def slow(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A gateway whose engine gives three tokens every `STEP`."""
    text = "one two three four five six seven eight nine ten<|im_start|>user"
    with (
        stand_in_gateway(artifact, tmp_path_factory.mktemp("pace"), 3, STEP, text) as (_, gateways),
        httpx.Client(base_url=gateways.addresses.http, timeout=30) as client,
    ):
        yield client


def test_a_steps_tokens_leave_in_one_write_each_before_the_next_step(slow: httpx.Client) -> None:
    """Text that waited for the next step would come in fewer pieces, a step's tokens one by one in more."""
    body = {"prompt": "x", "max_tokens": 12, "stream": True, "ignore_eos": True}
    reads = []
    with slow.stream("POST", "/v1/completions", json=body) as answer:
        for piece in answer.iter_raw():
            chunks = [json.loads(line[6:]) for line in piece.decode().splitlines() if line.startswith("data: {")]
            if text := "".join(chunk["choices"][0]["text"] for chunk in chunks):
                reads.append(text)
    assert len(reads) == 4, reads  # four steps of three tokens


def test_a_stop_that_spells_a_control_token_ends_the_answer_there(slow: httpx.Client) -> None:
    """Such a token never shows in the text; Continue sends this stop with every completion."""
    body = {"prompt": "x", "max_tokens": 100, "stop": ["<|im_start|>"], "ignore_eos": True}
    choice = slow.post("/v1/completions", json=body).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("one two three four five six seven eight nine ten", "stop")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LARGE}]}),
        ("/v1/completions", {"prompt": LARGE}),
        ("/tokenize", {"content": LARGE}),
        ("/v2/models/ensemble/generate", {"text_input": LARGE, "max_tokens": 1}),
    ],
)
def test_a_large_request_keeps_nobody_waiting(gateway: Serving, path: str, body: dict[str, object]) -> None:
    """Health is answered all the while."""
    answered = threading.Event()

    def send() -> None:
        httpx.post(f"{gateway.addresses.http}{path}", json=body, timeout=60)
        answered.set()

    sender = threading.Thread(target=send)
    sender.start()
    asked = 0
    with httpx.Client(base_url=gateway.addresses.http, timeout=60) as client:
        while not answered.is_set():
            assert client.get("/v1/health/live").status_code == 200
            asked += 1
    sender.join()
    assert asked > 2  # behind the large request it would have been one
