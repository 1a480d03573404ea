"""Clients take turns where requests wait for the engine, whichever way they come."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from build_engine.artifact import Artifact
from nimble_coder.client.grpc import tensors
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.serving import Serving
from tests.gateway.conformance import CheckingClient
from tests.gateway.conftest import wait_until
from tests.gateway.test_access import gateway_with, running
from tests.gateway.test_kserve import generation

FIRST, SECOND = {"authorization": "Bearer first"}, {"authorization": "Bearer second"}
FLOOD = 56
"""The engine runs 32 at once, half of which end one after the other: in order of arrival the 57th begins when 25 have
ended."""
IDS = {"input_ids": [300] * 20, "input_lengths": 20, "request_output_len": 1}
TEXT = {"text_input": "import os", "max_tokens": 1}


@pytest.fixture(scope="module")
def keyed(artifact: Artifact, gateway: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcesses]:
    with gateway_with(artifact, gateway, tmp_path_factory.mktemp("turns") / "log", api_keys="first,second") as g:
        yield g


@pytest.fixture
def flood(keyed: GatewayProcesses) -> Iterator[list[str]]:
    """What the first client has sent is on its way; the ids of its requests that have ended, and errors."""
    ended: list[str] = []

    def note(result: Any, error: Exception | None) -> None:
        if error or result.get_response().parameters["triton_final_response"].bool_param:
            ended.append(str(error or result.get_response().id))

    with (
        triton_grpc.InferenceServerClient(keyed.addresses.grpc) as client,
        CheckingClient(base_url=keyed.addresses.http) as http,
    ):
        client.start_stream(note, headers=FIRST)
        for number in range(FLOOD):
            inputs = generation([300] * 20, 300 + 100 * number if number < 16 else 3000)
            client.async_stream_infer("tensorrt_llm", inputs, request_id=str(number), enable_empty_final_response=True)
        assert wait_until(lambda: running(http) + len(ended) == FLOOD)
        yield ended
        client.stop_stream(cancel_requests=True)
        assert wait_until(lambda: running(http) == 0)


def ask(g: GatewayProcesses, way: str) -> None:
    """One short request of the second client's."""
    verb, _, model = way.partition(" ")
    if verb == "ModelInfer":
        with triton_grpc.InferenceServerClient(g.addresses.grpc) as client:
            client.infer(model, generation([300] * 20, 1), headers=SECOND)
    elif verb == "ModelStreamInfer":
        inputs = {"text_input": np.array([[b"import os"]], np.object_), "max_tokens": np.array([[1]], np.int32)}
        with triton_grpc.InferenceServerClient(g.addresses.grpc) as client:
            answers: list[Any] = []
            client.start_stream(lambda result, error: answers.append((result, error)), headers=SECOND)
            client.async_stream_infer(model, tensors(inputs))
            client.stop_stream()
            assert all(error is None for _, error in answers)
    else:
        with CheckingClient(base_url=g.addresses.http, timeout=60, headers=SECOND) as http:
            body = IDS if model == "tensorrt_llm" else TEXT
            answer = http.post(f"/v2/models/{model}/{verb}", json=body)
            assert (answer.status_code, "owner" in answer.text) == (200, False), answer.text


@pytest.mark.parametrize(
    "way",
    [
        "ModelInfer tensorrt_llm",
        "ModelStreamInfer ensemble",
        "ModelStreamInfer tensorrt_llm_bls",
        "generate_stream tensorrt_llm",
        "generate_stream tensorrt_llm_bls",
    ],
)
def test_one_that_floods_the_engine_does_not_keep_another_waiting(
    keyed: GatewayProcesses, flood: list[str], way: str
) -> None:
    ask(keyed, way)
    assert len(flood) < 16, flood
