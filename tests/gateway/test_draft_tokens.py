"""`draft_tokens`: a request drafts by matching suffixes, and its text is that of plain decoding."""

import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from build_engine.artifact import Artifact
from nimble_coder.client.grpc import tensors
from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import stand_in_gateway

PROMPT = (
    "def first(values):\n    return values[0]\n\n\ndef second(values):\n    return values[1]\n\n\ndef third(values):\n"
)
ASKED = {"prompt": PROMPT, "max_tokens": 64}


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "seed": 3}], ids=["greedy", "sampled"])
def test_the_text_is_that_of_plain_decoding(http: httpx.Client, sampling: dict[str, object]) -> None:
    plain = http.post("/v1/completions", json={**ASKED, **sampling, "lookahead": False}).json()
    drafted = http.post("/v1/completions", json={**ASKED, **sampling, "draft_tokens": 16})
    assert drafted.headers["x-nimble-draft-tokens"] == "16"
    assert drafted.headers["x-nimble-lookahead"] == "1,1,0"
    assert drafted.json()["choices"][0]["text"] == plain["choices"][0]["text"]
    details = drafted.json()["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] > 0


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({"drafting": "suffixes"}, "1,1,0"),
        ({"drafting": "suffixes", "lookahead": [1, 3, 1]}, "1,1,0"),
        ({"drafting": "lookahead"}, "8,8,8"),
        ({"drafting": "lookahead", "lookahead": [1, 3, 1]}, "1,3,1"),
    ],
    ids=str,
)
def test_a_request_may_name_its_drafter(http: httpx.Client, asked: dict[str, object], numbers: str) -> None:
    plain = http.post("/v1/completions", json={**ASKED, "lookahead": False}).json()
    drafted = http.post("/v1/completions", json={**ASKED, **asked})
    assert drafted.headers["x-nimble-drafting"] == asked["drafting"]
    assert drafted.headers["x-nimble-lookahead"] == numbers
    assert drafted.json()["choices"][0]["text"] == plain["choices"][0]["text"]
    assert drafted.json()["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] > 0


def test_the_header_names_what_the_engine_drafts_by_where_a_request_says_nothing(
    artifact: Artifact, tmp_path: Path
) -> None:
    """The stand-in's drafter is that of a GPU."""
    with (
        stand_in_gateway(artifact, tmp_path, 1, 0.001) as (_, gateways),
        httpx.Client(base_url=gateways.addresses.http, timeout=60) as client,
    ):
        for asked, drafter in (
            ({}, "windowed"),
            ({"draft_tokens": 32}, "windowed"),
            ({"draft_tokens": 16}, "suffixes"),
            ({"drafting": "suffixes"}, "suffixes"),
            ({"lookahead": False}, "none"),
        ):
            answer = client.post("/v1/completions", json={**ASKED, "max_tokens": 1, **asked})
            assert answer.headers["x-nimble-drafting"] == drafter, asked


def test_a_drafter_that_there_is_not_is_refused_with_those_that_there_are(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={**ASKED, "drafting": "oracle"})
    assert (answer.status_code, "send one of lookahead, suffixes" in answer.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize(
    "body", [{"draft_tokens": 33}, {"draft_tokens": -1}, {"draft_tokens": 4, "lookahead": [1, 3, 1]}], ids=str
)
def test_what_cannot_be_drafted_is_refused(http: httpx.Client, body: dict[str, object]) -> None:
    assert http.post("/v1/completions", json={**ASKED, **body}).status_code == 400


def test_a_grpc_client_names_it_as_a_request_parameter(gateway: Serving) -> None:
    def ask(**parameters: int) -> list[int]:
        found: list[int] = []
        answers: list[object] = []
        with triton_grpc.InferenceServerClient(gateway.addresses.grpc) as client:
            client.start_stream(lambda result, error: answers.append(error or result))
            arrays = {"input_ids": np.array([[300 + i % 7 for i in range(40)]], np.int32)}
            arrays |= {"input_lengths": np.array([[40]], np.int32), "request_output_len": np.array([[24]], np.int32)}
            client.async_stream_infer("tensorrt_llm", tensors(arrays), parameters=parameters)
            client.stop_stream()
        for answer in answers:
            assert isinstance(answer, triton_grpc.InferResult), answer
            found += answer.as_numpy("output_ids").flatten().tolist()
        return found

    assert ask(draft_tokens=8) == ask(draft_tokens=0) == ask()


def test_a_later_request_of_the_same_client_drafts_from_an_earlier_one(gateway: Serving, http: httpx.Client) -> None:
    body = {"prompt": [300 + i * i % 41 for i in range(32)], "max_tokens": 48, "temperature": 1.2, "seed": 5}
    first, second = (http.post("/v1/completions", json=body).json() for _ in range(2))
    assert first["choices"][0]["text"] == second["choices"][0]["text"]
    accepted = [each["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] for each in (first, second)]
    assert accepted[1] >= accepted[0]
    deadline = time.monotonic() + 30
    while total(gateway, "nimble_drafting_accepted", "pool") == 0:
        assert time.monotonic() < deadline, "no draft of an earlier request's text was accepted"
        http.post("/v1/completions", json=body)


def total(gateway: Serving, name: str, source: str) -> float:
    """A total of the engine's drafts, as its metrics tell."""
    text = httpx.get(gateway.triton.addresses.metrics).text
    line = next(line for line in text.splitlines() if line.startswith(name) and f'source="{source}"' in line)
    return float(line.split()[-1])


def test_a_pool_cannot_be_named_from_outside(gateway: Serving, http: httpx.Client) -> None:
    ids = {"input_ids": [300] * 8, "input_lengths": 8, "request_output_len": 2}
    shaped = [
        {"name": name, "datatype": "INT32", "shape": [1, len(values)], "data": values}
        for name, values in {"input_ids": [300] * 8, "input_lengths": [8], "request_output_len": [2]}.items()
    ]
    for verb, body in (
        ("generate_stream", {**ids, "draft_pool": "x"}),
        ("generate_stream", {**ids, "parameters": {"draft_pool": "x"}}),
        ("infer", {"inputs": shaped, "parameters": {"draft_pool": "x"}}),
        ("infer", {"inputs": shaped, "parameters": {"owner": "x"}}),
    ):
        answer = http.post(f"/v2/models/tensorrt_llm/{verb}", json=body)
        assert (answer.status_code, "is the gateway's own" in answer.text) == (400, True), (verb, answer.text)
    arrays = {"input_ids": np.full((1, 8), 300, np.int32), "input_lengths": np.array([[8]], np.int32)}
    arrays |= {"request_output_len": np.array([[2]], np.int32)}
    with (
        triton_grpc.InferenceServerClient(gateway.addresses.grpc) as client,
        pytest.raises(InferenceServerException, match="draft_pool is the gateway's own"),
    ):
        client.infer("tensorrt_llm", tensors(arrays), parameters={"draft_pool": "x"})
