"""Every row of a KServe batch is a generation, and so is every copy of a row, for the limit that all share.

The engine is a stand-in whose generations last for minutes, so that what was admitted is still there to be counted.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from build_engine.artifact import Artifact
from nimble_coder.client.grpc import tensors
from nimble_coder.gateway.kserve.guard import generations_of
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.triton import Addresses
from tests.gateway.conformance import CheckingClient
from tests.gateway.conftest import stand_in_gateway, wait_until
from tests.gateway.test_access import open_streams, running

ROW = {"input_ids": [300] * 20, "input_lengths": [20], "request_output_len": [3000], "streaming": [True]}
BODY = {"prompt": "import os\nimport ", "max_tokens": 1}
TOO_MANY = "3 answers in one request, 2 generations at once is the limit"


@pytest.fixture(scope="module")
def limited(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcesses]:
    """A gateway that takes two generations at once, each of which takes 0.2 s a token."""
    work, settings = tmp_path_factory.mktemp("batches"), {"NIMBLE_MAX_CONCURRENT_REQUESTS": "2"}
    with (
        stand_in_gateway(artifact, work, tokens_per_step=1, interval=0.2) as (triton, _),
        GatewayProcesses(artifact.directory, triton.addresses, Addresses.free(), 1, work / "log", settings) as gateway,
    ):
        gateway.wait_ready()
        yield gateway


@pytest.fixture
def http(limited: GatewayProcesses) -> Iterator[CheckingClient]:
    with CheckingClient(base_url=limited.addresses.http, timeout=30) as client:
        yield client
        assert wait_until(lambda: running(client) == 0)


@pytest.fixture
def client(limited: GatewayProcesses) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(limited.addresses.grpc) as client:
        yield client


def batch(rows: int, copies: int = 1) -> list[Any]:
    """The inputs of a request with so many rows, each of which is to be continued so often; only one row may stream."""
    values = {**ROW, "num_return_sequences": [copies], "streaming": [rows == 1]}
    types = {"streaming": np.bool_}
    return tensors({name: np.array([value] * rows, types.get(name, np.int32)) for name, value in values.items()})


@pytest.mark.parametrize(("rows", "copies"), [(3, 1), (1, 3)])
def test_more_than_the_limit_are_refused_over_grpc(
    limited: GatewayProcesses, client: Any, rows: int, copies: int
) -> None:
    with open_streams(limited, 1) as (stream,):
        stream.send_inputs("many", batch(rows, copies))
        assert wait_until(lambda: len(stream.errors) == 1)
        assert TOO_MANY in stream.errors[0]
    with pytest.raises(InferenceServerException, match=f"INVALID_ARGUMENT.*{TOO_MANY}"):
        client.infer("tensorrt_llm", batch(rows, copies))


def test_more_texts_than_the_limit_are_refused(client: Any) -> None:
    texts = tensors({"text_input": np.array([[b"x"]] * 3, np.object_), "max_tokens": np.array([[4]] * 3, np.int32)})
    for model in ("ensemble", "tensorrt_llm_bls"):
        with pytest.raises(InferenceServerException, match=TOO_MANY):
            client.infer(model, texts)


@pytest.mark.parametrize(("rows", "copies"), [(2, 1), (1, 2)])
def test_all_of_a_batch_hold_places_over_grpc(
    limited: GatewayProcesses, http: CheckingClient, rows: int, copies: int
) -> None:
    with open_streams(limited, 1) as (stream,):
        stream.send_inputs("two", batch(rows, copies))
        assert wait_until(lambda: running(http) == 2)
        assert http.post("/v1/completions", json=BODY).status_code == 429
    assert wait_until(lambda: running(http) == 0)
    assert http.post("/v1/completions", json=BODY).status_code == 200


def test_more_than_the_limit_are_refused_over_http(http: CheckingClient) -> None:
    inputs = [
        {"name": t.name(), "shape": [*t.shape()], "datatype": t.datatype(), "data": [ROW.get(t.name(), [1])] * 3}
        for t in batch(3)
    ]
    copies = {"num_return_sequences": 3}
    bodies = [("infer", {"inputs": inputs}), ("generate", ROW | copies), ("generate", ROW | {"parameters": copies})]
    for path, body in [*bodies, ("generate_stream", ROW | {"parameters": copies})]:
        refused = http.post(f"/v2/models/tensorrt_llm/{path}", json=body)
        assert (refused.status_code, TOO_MANY in refused.json()["error"]) == (400, True)


def test_all_copies_hold_places_over_http(http: CheckingClient) -> None:
    body = {**ROW, "num_return_sequences": 2}
    with http.stream("POST", "/v2/models/tensorrt_llm/generate_stream", json=body) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert running(http) == 2
        assert http.post("/v1/completions", json=BODY).status_code == 429


@pytest.mark.parametrize(
    ("copies", "rows", "count"), [([], 1, 1), ([], 4, 4), ([3, 3], 2, 6), ([0], 1, 1), ([-5], -1, 1), (["x"], 2, 2)]
)
def test_what_states_no_count_is_one(copies: list[Any], rows: int, count: int) -> None:
    assert generations_of({"num_return_sequences": copies}, rows) == count
