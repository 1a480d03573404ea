"""A client that hangs up frees its slot at once, whatever it asked with: editors do it at every keystroke."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from build_engine.artifact import Artifact
from nimble_coder.client.grpc import tensors
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.triton import Addresses, TritonServer
from tests.gateway.conftest import active_requests, engine_gauge, generated, is_cut_short, stand_in_gateway, wait_until

PROMPT = "import os\nimport sys\n\ndef main(argv):\n    "
ENDLESS = {"prompt": PROMPT, "max_tokens": 6000, "ignore_eos": True}
CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 6000, "ignore_eos": True}
INFILL = {"input_prefix": PROMPT, "input_suffix": "", "n_predict": 6000, "ignore_eos": True}
TOKENS = {"input_ids": [9, 9, 9, 9, 9, 9, 9, 9], "input_lengths": 8, "request_output_len": 6000}
TEXT = {"text_input": PROMPT, "max_tokens": 6000}
STEP = 0.5
"""Seconds that a decoding step of the stand-in takes: much longer than a cancellation, even on a busy machine."""

HangUp = Callable[[], None]


def send(addresses: Addresses, path: str, body: dict[str, object]) -> socket.socket:
    """A request on a connection of its own, to be closed in the middle of the answer."""
    content = json.dumps(body).encode()
    connection = socket.create_connection((addresses.host, addresses.http_port), timeout=30)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


def ignore(result: object, error: object) -> None:
    """What a stream brings is not looked at."""


def send_grpc(addresses: Addresses, streaming: bool, single: bool) -> HangUp:
    """A `tensorrt_llm` request by the unmodified tritonclient; returns what cancels it."""
    arrays = {
        "input_ids": np.array([TOKENS["input_ids"]], np.int32),
        "input_lengths": np.array([[8]], np.int32),
        "request_output_len": np.array([[6000]], np.int32),
        "streaming": np.array([[streaming]]),
    }
    if single:
        client = triton_grpc.InferenceServerClient(addresses.grpc)
        cancel: HangUp = client.async_infer("tensorrt_llm", tensors(arrays), ignore).cancel
        return cancel
    return send_stream(addresses, "tensorrt_llm", tensors(arrays))


def send_text(addresses: Addresses) -> HangUp:
    """A stream of the ensemble; returns what cancels it."""
    text = {"text_input": np.array([[PROMPT]], object), "max_tokens": np.array([[6000]], np.int32)}
    return send_stream(addresses, "ensemble", tensors(text | {"stream": np.array([[True]])}))


def send_stream(addresses: Addresses, model: str, inputs: list[Any]) -> HangUp:
    """A stream with one request; returns what cancels it."""
    client = triton_grpc.InferenceServerClient(addresses.grpc)
    client.start_stream(ignore)
    client.async_stream_infer(model, inputs)

    def hang_up() -> None:
        client.stop_stream(cancel_requests=True)
        client.close()

    return hang_up


HTTP_WAYS: dict[str, tuple[str, dict[str, object]]] = {
    "completion, streamed": ("/v1/completions", {**ENDLESS, "stream": True}),
    "completion, whole": ("/v1/completions", ENDLESS),
    "three completions, streamed": ("/v1/completions", {**ENDLESS, "stream": True, "n": 3}),
    "three completions, whole": ("/v1/completions", {**ENDLESS, "n": 3}),
    "chat, streamed": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "chat, whole": ("/v1/chat/completions", CHAT),
    "infill, whole": ("/infill", INFILL),
    "KServe generate": ("/v2/models/tensorrt_llm/generate", TOKENS),
    "KServe generate of the ensemble": ("/v2/models/ensemble/generate", TEXT),
    "KServe generate of text": ("/v2/models/tensorrt_llm_bls/generate", TEXT),
    "KServe generate_stream": ("/v2/models/tensorrt_llm/generate_stream", {**TOKENS, "streaming": True}),
    "KServe generate_stream of the ensemble": ("/v2/models/ensemble/generate_stream", {**TEXT, "stream": True}),
    "KServe generate_stream of text": ("/v2/models/tensorrt_llm_bls/generate_stream", {**TEXT, "stream": True}),
}


@pytest.fixture(scope="module")
def slow(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonServer, Addresses]]:
    """A gateway over an engine whose steps are long enough to count."""
    with stand_in_gateway(artifact, tmp_path_factory.mktemp("slow"), 1, STEP) as (triton, gateways):
        yield triton, gateways.addresses


@pytest.mark.parametrize("way", [*HTTP_WAYS, "gRPC, streamed", "gRPC, whole", "gRPC, single", "gRPC, the ensemble"])
def test_a_client_that_goes_away_frees_its_slot_within_one_decoding_step(
    slow: tuple[TritonServer, Addresses], way: str
) -> None:
    triton, addresses = slow
    choices = 3 if "three" in way else 1
    before, counted = engine_gauge(triton, "request_steps"), cancelled(addresses)
    if way == "gRPC, the ensemble":
        hang_up = send_text(addresses)
    elif way.startswith("gRPC"):
        hang_up = send_grpc(addresses, streaming="streamed" in way, single="single" in way)
    else:
        hang_up = send(addresses, *HTTP_WAYS[way]).close
    assert wait_until(lambda: engine_gauge(triton, "request_steps") >= before + 2 * choices)
    done = engine_gauge(triton, "request_steps")
    hang_up()
    assert wait_until(lambda: engine_gauge(triton, "active") == 0)
    # The reported number may be one report old, which is less than a step.
    assert engine_gauge(triton, "request_steps") - done <= choices
    assert wait_until(lambda: cancelled(addresses) == counted + choices)


def cancelled(addresses: Addresses) -> float:
    """Generations whose client went away, as the gateway counts them."""
    page = httpx.get(f"{addresses.http}/metrics").text
    return float(re.findall(r"(?m)^nimble_requests_cancelled_total (\S+)", page)[0])


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
    before = generated(gateway)
    connection = send(gateway.addresses, path, body)
    assert wait_until(lambda: active_requests(gateway) == body.get("n", 1))
    connection.close()
    assert is_cut_short(gateway, before, 6000)


def test_others_are_not_disturbed(gateway: Serving, http: httpx.Client) -> None:
    body = {"prompt": PROMPT, "max_tokens": 200, "ignore_eos": True}
    expected = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    dropped = [send(gateway.addresses, "/v1/completions", {**ENDLESS, "stream": True}) for _ in range(6)]
    with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
        lines = stream.iter_lines()
        text = json.loads(next(lines)[6:])["choices"][0]["text"]
        for connection in dropped:
            connection.close()
        for line in lines:
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["text"]
    assert text == expected
