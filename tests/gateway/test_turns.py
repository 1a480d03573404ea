"""Clients take turns where requests wait for the engine, whichever way they come."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from build_engine.artifact import Artifact
from nimble_coder.client.grpc import tensors
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.serving import Serving
from tests.gateway.conformance import CheckingClient
from tests.gateway.conftest import active_requests, engine_gauge, wait_until
from tests.gateway.test_access import gateway_with
from tests.gateway.test_kserve import generation
from tests.gateway.test_kserve_stop import stop

FIRST, SECOND = {"authorization": "Bearer first"}, {"authorization": "Bearer second"}
PLACES, FLOOD = 31, 56
"""What the engine runs at once of one client where several call, which is all but one, and what the first one sends."""
LONG = 8000
"""Tokens of each, decoded plainly: none of them ends while a test looks."""
IDS = {"input_ids": [300] * 20, "input_lengths": 20, "request_output_len": 1}
TEXT = {"text_input": "import os", "max_tokens": 1}


@pytest.fixture(scope="module")
def keyed(artifact: Artifact, gateway: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcesses]:
    with gateway_with(artifact, gateway, tmp_path_factory.mktemp("turns") / "log", api_keys="first,second") as g:
        ask(g, "ModelInfer tensorrt_llm")  # the engine knows of the second client
        yield g


class Flood:
    """What the first client has sent on one stream."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.begun, self.ended = set[str](), set[str]()
        client.start_stream(self._note, headers=FIRST)
        for number in range(FLOOD):
            self._send(str(number), generation([300] * 20, LONG, (1, 1, 0)))

    def leave(self) -> None:
        """Hangs up."""
        self._client.stop_stream(cancel_requests=True)

    def stop(self, request_id: str) -> None:
        """Ends a request, whose place is free then."""
        self._send(request_id, stop())

    def _send(self, request_id: str, inputs: list[Any]) -> None:
        self._client.async_stream_infer("tensorrt_llm", inputs, request_id=request_id, enable_empty_final_response=True)

    def _note(self, result: Any, error: Exception | None) -> None:
        if error is not None:  # the end of the stream, or what no test expects
            self.ended.add(str(error))
            return
        answer = result.get_response()
        if answer.outputs:
            self.begun.add(answer.id)
        if answer.parameters["triton_final_response"].bool_param:
            self.ended.add(answer.id)


@pytest.fixture
def flood(keyed: GatewayProcesses, gateway: Serving) -> Iterator[Flood]:
    """What the first client has sent has filled the engine, and the rest of it waits."""
    with triton_grpc.InferenceServerClient(keyed.addresses.grpc) as client:
        flood = Flood(client)
        assert wait_until(lambda: waiting(gateway) == FLOOD - PLACES)
        yield flood
        flood.leave()
    assert wait_until(lambda: active_requests(gateway) == 0)


def waiting(gateway: Serving) -> int:
    """Requests that wait for a place in the engine."""
    return engine_gauge(gateway.triton, "waiting")


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
    keyed: GatewayProcesses, flood: Flood, way: str
) -> None:
    """The second client's request has the place that is left, before all that the first client sent before."""
    ask(keyed, way)
    assert len(flood.begun) <= PLACES
    assert not flood.ended


def test_places_that_become_free_are_taken_by_turns(keyed: GatewayProcesses, gateway: Serving, flood: Flood) -> None:
    with triton_grpc.InferenceServerClient(keyed.addresses.grpc) as client, ThreadPoolExecutor(2) as pool:

        def long() -> Any:
            inputs = generation([301] * 20, LONG, (1, 1, 0))
            return client.infer("tensorrt_llm", inputs, request_id="long", headers=SECOND)

        try:
            holding = pool.submit(long)
            assert wait_until(lambda: active_requests(gateway) == PLACES + 1)
            asking = pool.submit(ask, keyed, "ModelInfer tensorrt_llm")
            assert wait_until(lambda: waiting(gateway) == FLOOD - PLACES + 1)
            for number in range(3):  # the first place is kept for a third client, and the next is the first one's turn
                flood.stop(str(number))
            asking.result(60)
            assert len(flood.begun) <= PLACES + 2  # the place that the second client has left again may be taken
        finally:
            client.infer("tensorrt_llm", stop(), request_id="long", headers=SECOND)
            flood.leave()
        assert holding.result(60).as_numpy("sequence_length").item() < LONG


def test_a_stop_reaches_the_requests_of_its_own_key_alone(keyed: GatewayProcesses, gateway: Serving) -> None:
    assert wait_until(lambda: active_requests(gateway) == 0)
    with triton_grpc.InferenceServerClient(keyed.addresses.grpc) as client, ThreadPoolExecutor(2) as pool:

        def ask(headers: dict[str, str], inputs: list[Any]) -> Any:
            return client.infer("tensorrt_llm", inputs, request_id="1", headers=headers)

        first = pool.submit(ask, FIRST, generation([300] * 20, LONG, (1, 1, 0)))
        assert wait_until(lambda: active_requests(gateway) == 1)
        second = pool.submit(ask, SECOND, generation([301] * 20, LONG, (1, 1, 0)))
        assert wait_until(lambda: active_requests(gateway) == 2)
        ask(FIRST, stop())
        assert first.result(20).as_numpy("sequence_length").item() < LONG
        assert wait_until(lambda: active_requests(gateway) == 1)
        ask(FIRST, stop())
        assert active_requests(gateway) == 1
        ask(SECOND, stop())
        assert second.result(20).as_numpy("sequence_length").item() < LONG
