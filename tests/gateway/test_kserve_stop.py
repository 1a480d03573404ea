"""A request with `stop` ends the running one of its id, sent as NVIDIA's own client does: without a prompt."""

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from nimble_coder.client.grpc import tensors
from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import active_requests, wait_until

LONG = 8000
STOP = {"input_ids": [[7]], "input_lengths": [[0]], "request_output_len": [[0]]}


def stop() -> list[Any]:
    return tensors({name: np.array(value, np.int32) for name, value in STOP.items()} | {"stop": np.array([[True]])})


def generation(streaming: bool) -> list[Any]:
    """A long one, decoded plainly and therefore slowly."""
    arrays = {
        "input_ids": np.array([[300, 301, 302, 303]], np.int32),
        "input_lengths": np.array([[4]], np.int32),
        "request_output_len": np.array([[LONG]], np.int32),
        "streaming": np.array([[streaming]]),
    }
    plain = {"window_size": 1, "ngram_size": 1, "verification_set_size": 0}
    return tensors(arrays | {f"lookahead_{name}": np.array([[value]], np.int32) for name, value in plain.items()})


@pytest.fixture
def client(gateway: Serving) -> Iterator[Any]:
    assert wait_until(lambda: active_requests(gateway) == 0)  # the gauge may be of the last test
    with triton_grpc.InferenceServerClient(gateway.addresses.grpc) as client:
        yield client


def tokens_of(results: list[Any]) -> list[int]:
    return [int(i) for result in results if (ids := result.as_numpy("output_ids")) is not None for i in ids.flatten()]


@pytest.mark.parametrize("asks_for_empty", [False, True])
def test_a_stop_on_the_stream_ends_the_answer_and_is_answered(
    gateway: Serving, client: Any, asks_for_empty: bool
) -> None:
    """What is stopped ends with a response like any other; the stop's own has no outputs."""
    found: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: found.put(error or result))
    client.async_stream_infer(
        "tensorrt_llm", generation(True), request_id="long", enable_empty_final_response=asks_for_empty
    )
    assert wait_until(lambda: active_requests(gateway) == 1)
    client.async_stream_infer("tensorrt_llm", stop(), request_id="long", parameters={"Streaming": True})
    client.stop_stream()
    results = list(found.queue)
    assert not [result for result in results if isinstance(result, InferenceServerException)]
    assert 0 < len(tokens_of(results)) < LONG
    assert [len(result.get_response().outputs) for result in results].count(0) == 1
    assert wait_until(lambda: active_requests(gateway) == 0)


def test_a_stop_ends_a_single_inference_too(gateway: Serving, client: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.infer, "tensorrt_llm", generation(False), request_id="single")
        assert wait_until(lambda: active_requests(gateway) == 1)
        assert client.infer("tensorrt_llm", stop(), request_id="single").as_numpy("output_ids") is None
        assert 0 < len(tokens_of([running.result(20)])) < LONG


@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
def test_a_stop_over_http_needs_no_prompt_either(gateway: Serving, client: Any, http: httpx.Client, verb: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.infer, "tensorrt_llm", generation(False), request_id="by-http")
        assert wait_until(lambda: active_requests(gateway) == 1)
        body = {"id": "by-http", "input_ids": [7], "input_lengths": 0, "request_output_len": 0, "stop": True}
        assert http.post(f"/v2/models/tensorrt_llm/{verb}", json=body).status_code == 200
        assert 0 < len(tokens_of([running.result(20)])) < LONG


def test_of_several_requests_with_one_id_the_newest_is_ended(gateway: Serving, client: Any) -> None:
    with ThreadPoolExecutor(2) as pool:
        older = pool.submit(client.infer, "tensorrt_llm", generation(False), request_id="same")
        assert wait_until(lambda: active_requests(gateway) == 1)
        newer = pool.submit(client.infer, "tensorrt_llm", generation(False), request_id="same")
        assert wait_until(lambda: active_requests(gateway) == 2)
        client.infer("tensorrt_llm", stop(), request_id="same")
        assert 0 < len(tokens_of([newer.result(20)])) < LONG
        assert wait_until(lambda: active_requests(gateway) == 1)
        client.infer("tensorrt_llm", stop(), request_id="same")
        assert len(tokens_of([older.result(20)])) < LONG


def test_a_stop_without_an_id_is_refused_and_one_of_nothing_is_not(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="request ID is not provided"):
        client.infer("tensorrt_llm", stop())
    assert client.infer("tensorrt_llm", stop(), request_id="nothing").as_numpy("output_ids") is None


def test_without_stop_an_empty_prompt_is_refused_as_before(client: Any) -> None:
    arrays = {name: np.array(value, np.int32) for name, value in STOP.items()}
    with pytest.raises(InferenceServerException, match="prompt is empty"):
        client.infer("tensorrt_llm", tensors(arrays | {"stop": np.array([[False]])}), request_id="x")
