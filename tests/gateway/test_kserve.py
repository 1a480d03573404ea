"""KServe v2 through the gateway: the unmodified tritonclient works, and what would harm others does not get through."""

import gzip
import json
import queue
import re
import socket
from contextlib import ExitStack
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from build_engine.lookahead import LookaheadConfig
from nimble_coder.client.grpc import CompletionClient, CompletionError, tensors
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.kserve.guard import flat, lengths_of
from nimble_coder.processes.serving import Serving
from nimble_coder.text.tokenizer import TextTokenizer
from tests.gateway.conftest import active_requests, generated, is_cut_short, wait_until

PROMPT = "import os\nimport sys\n\ndef main(argv):\n    "


@pytest.fixture
def client(gateway: Serving) -> Any:
    with triton_grpc.InferenceServerClient(gateway.addresses.grpc) as client:
        yield client


def generation(ids: list[int], max_tokens: int = 8, lookahead: tuple[int, int, int] | None = None) -> list[Any]:
    arrays = {
        "input_ids": np.array([ids], np.int32),
        "input_lengths": np.array([[len(ids)]], np.int32),
        "request_output_len": np.array([[max_tokens]], np.int32),
        "streaming": np.array([[True]]),
    }
    if lookahead:
        names = ("lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size")
        arrays |= {name: np.array([[value]], np.int32) for name, value in zip(names, lookahead, strict=True)}
    return tensors(arrays)


def stream(client: Any, *inputs: list[Any]) -> list[tuple[Any, InferenceServerException | None]]:
    """Runs generations on one stream and returns everything that came back."""
    found: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()
    client.start_stream(lambda result, error: found.put((result, error)))
    for number, each in enumerate(inputs):
        client.async_stream_infer("tensorrt_llm", each, request_id=str(number), enable_empty_final_response=True)
    client.stop_stream()
    return list(found.queue)


def test_our_own_client_works_through_the_proxy(gateway: Serving) -> None:
    with CompletionClient(gateway.addresses.grpc) as proxied, CompletionClient(gateway.triton.addresses.grpc) as direct:
        assert proxied.complete(PROMPT, 24).text == direct.complete(PROMPT, 24).text
        with pytest.raises(CompletionError, match="exceeds the engine's"):
            proxied.complete(PROMPT, 24, LookaheadConfig(9, 8, 8))


def test_reading_calls_work(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tensorrt_llm")
    assert client.get_model_metadata("ensemble").name == "ensemble"
    assert client.get_model_config("tensorrt_llm").config.backend == "tensorrtllm"
    assert client.get_inference_statistics("tensorrt_llm").model_stats[0].name == "tensorrt_llm"


def test_text_models_answer_single_calls(client: Any) -> None:
    question = {"QUERY": np.array([[b"import os"]], np.object_), "REQUEST_OUTPUT_LEN": np.array([[4]], np.int32)}
    assert client.infer("preprocessing", tensors(question)).as_numpy("INPUT_ID").size > 1


@pytest.mark.parametrize(
    ("length", "lookahead", "reason"),
    [
        (20, (9, 8, 8), r"exceeds the engine's \(8,8,8\)"),
        (20, (2, 1, 0), "not legal"),
        (3, (8, 8, 8), "needs at least 7"),
        (8200, None, "takes at most 8191"),
    ],
)
def test_what_would_harm_others_is_refused_on_the_stream(
    client: Any, length: int, lookahead: tuple[int, int, int] | None, reason: str
) -> None:
    good, bad = generation([300] * 20), generation([300] * length, lookahead=lookahead)
    answers = stream(client, bad, good)
    errors = [error.message() for _, error in answers if error is not None]
    assert len(errors) == 1
    assert re.search(reason, errors[0])
    tokens = [result.as_numpy("output_ids") for result, error in answers if error is None]
    assert sum(array.size for array in tokens if array is not None) == 8


def test_a_prompt_too_short_for_lookahead_is_decoded_plainly(client: Any) -> None:
    answers = stream(client, generation([300, 301]))
    assert all(error is None for _, error in answers)


def test_shared_memory_is_refused(client: Any) -> None:
    tensor = triton_grpc.InferInput("input_ids", [1, 4], "INT32")
    tensor.set_shared_memory("region", 16)
    with pytest.raises(InferenceServerException, match="shared memory"):
        client.infer("tensorrt_llm", [tensor])


def test_a_stream_that_is_cancelled_frees_its_slot(gateway: Serving, tokenizer: TextTokenizer) -> None:
    client = triton_grpc.InferenceServerClient(gateway.addresses.grpc)
    found: queue.Queue[object] = queue.Queue()
    client.start_stream(lambda result, error: found.put((result, error)))
    before = generated(gateway)
    client.async_stream_infer("tensorrt_llm", generation(tokenizer.encode(PROMPT), 6000))
    assert wait_until(lambda: active_requests(gateway) == 1)
    client.stop_stream(cancel_requests=True)
    assert is_cut_short(gateway, before, 6000)
    client.close()


def responses(address: str, model: str, inputs: list[Any], asks_for_empty: bool) -> list[tuple[str, bool, int, str]]:
    """Id, whether it is the final one, number of outputs and error of each response on a stream of its own."""
    request = service_pb2.ModelInferRequest(model_name=model, id="x7")
    for tensor in inputs:
        request.inputs.append(tensor._get_tensor())
        request.raw_input_contents.append(tensor._get_content())
    if asks_for_empty:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    found = []
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        for message in call(iter([request.SerializeToString()])):
            answer = service_pb2.ModelStreamInferResponse.FromString(message)
            response = answer.infer_response
            is_final = response.parameters["triton_final_response"].bool_param
            found.append((response.id, is_final, len(response.outputs), answer.error_message))
    return found


TEXT = {
    "text_input": np.array([[b"import os"]], np.object_),
    "max_tokens": np.array([[2]], np.int32),
    "stream": np.array([[True]]),
}


@pytest.mark.parametrize("asks_for_empty", [False, True])
@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("tensorrt_llm", generation([300] * 20, 1)),
        ("tensorrt_llm", [*generation([1], 1), *tensors({"stop": np.array([[True]])})]),
        ("tensorrt_llm_bls", tensors(TEXT)),
        ("ensemble", tensors(TEXT)),
        ("nothing", generation([300] * 20)),
    ],
    ids=["generation", "stop", "bls", "ensemble", "unknown"],
)
def test_a_stream_has_the_responses_that_tritons_own_has(
    gateway: Serving, model: str, inputs: list[Any], asks_for_empty: bool
) -> None:
    """The gateway has every last response marked, also for clients that did not ask: those must not see more."""
    proxied, direct = (
        responses(address, model, inputs, asks_for_empty)
        for address in (gateway.addresses.grpc, gateway.triton.addresses.grpc)
    )
    assert [answer[1:] for answer in proxied][-1:] == [answer[1:] for answer in direct][-1:]
    assert {answer[0] for answer in proxied} == {answer[0] for answer in direct}


def test_http_passes_v2_through(gateway: Serving, http: httpx.Client) -> None:
    direct = gateway.triton.addresses.http
    for path in ("/v2", "/v2/models/ensemble/config", "/v2/models/tensorrt_llm/stats", "/v2/models/ensemble"):
        passed = http.get(path)
        assert passed.status_code == 200
        if "stats" not in path:
            assert passed.json() == httpx.get(direct + path).json()
    assert http.get("/v2/health/ready").status_code == 200
    assert http.get("/v2/models/none").status_code == httpx.get(direct + "/v2/models/none").status_code


@pytest.mark.parametrize("name", [b"%FF", b"\xc3\xa9", b"a|b", b"a%20b", b'"'])
def test_a_name_that_no_model_has_is_not_found_however_it_is_written(gateway: Serving, name: bytes) -> None:
    address = (gateway.addresses.host, gateway.addresses.http_port)
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"GET /v2/models/%b/config HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" % name)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.match(rb"HTTP/1.1 40[04] ", answer), answer


def test_a_dozen_streams_that_triton_runs_keep_no_other_call_waiting(gateway: Serving, http: httpx.Client) -> None:
    body = json.dumps({"text_input": PROMPT, "max_tokens": 6000, "stream": True}).encode()
    line = b"POST /v2/models/tensorrt_llm_bls/generate_stream HTTP/1.1\r\n"
    head = line + b"host: a\r\naccept: \xe9\r\ncontent-length: %d\r\n\r\n" % len(body)
    address = (gateway.addresses.host, gateway.addresses.http_port)
    with ExitStack() as streams:
        for _ in range(12):
            streams.enter_context(socket.create_connection(address, timeout=30)).sendall(head + body)
        assert wait_until(lambda: "num_requests_running 12.0" in http.get("/metrics").text)
        assert http.get("/v2/health/ready", timeout=10).status_code == 200
        assert "nv_inference_count" in http.get("/metrics", timeout=10).text
    assert wait_until(lambda: active_requests(gateway) == 0)


def test_health_contents_both_tritons_client_and_kserves(gateway: Serving, http: httpx.Client) -> None:
    """Triton's client looks at the status alone, `kserve`'s reads JSON, which Triton itself does not send."""
    a = gateway.addresses
    with triton_http.InferenceServerClient(f"{a.host}:{a.http_port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tensorrt_llm")
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}
    assert http.get("/v2/models/tensorrt_llm/ready").status_code == 200


def http_inputs(arrays: dict[str, Any]) -> list[Any]:
    """The HTTP client's binary tensors."""
    inputs = []
    for name, array in arrays.items():
        tensor = triton_http.InferInput(name, list(array.shape), "BYTES" if array.dtype == object else "INT32")
        tensor.set_data_from_numpy(array, binary_data=True)
        inputs.append(tensor)
    return inputs


def test_the_http_tritonclient_works(gateway: Serving) -> None:
    a = gateway.addresses
    with triton_http.InferenceServerClient(f"{a.host}:{a.http_port}") as client:
        arrays = {"QUERY": np.array([[b"import os"]], np.object_), "REQUEST_OUTPUT_LEN": np.array([[4]], np.int32)}
        assert client.infer("preprocessing", http_inputs(arrays)).as_numpy("INPUT_ID").size > 1


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_read(gateway: Serving, algorithm: str) -> None:
    a = gateway.addresses
    with triton_http.InferenceServerClient(f"{a.host}:{a.http_port}") as client:
        arrays = {"QUERY": np.array([[b"import os"]], np.object_), "REQUEST_OUTPUT_LEN": np.array([[4]], np.int32)}
        answer = client.infer(
            "preprocessing",
            http_inputs(arrays),
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        assert answer.as_numpy("INPUT_ID").size > 1
        with pytest.raises(InferenceServerException, match="8200 tokens"):
            long = {name: np.array(rows, np.int32) for name, rows in BATCH.items()}
            client.infer("tensorrt_llm", http_inputs(long), request_compression_algorithm=algorithm)


HARMLESS = b'{"text_input": "import os", "max_tokens": 2}'


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("GZIP", gzip.compress(HARMLESS), 200),
        ("identity", HARMLESS, 200),
        ("gzip", gzip.compress(b" " * (9 << 20)), 413),
        ("gzip", gzip.compress(HARMLESS)[:-4], 400),
        ("gzip", gzip.compress(HARMLESS) + gzip.compress(b"more"), 400),
        ("gzip", HARMLESS, 400),
        ("br", HARMLESS, 415),
    ],
    ids=["gzip", "identity", "bomb", "cut", "two", "none", "unknown"],
)
def test_a_compressed_body_is_checked_as_triton_would_read_it(
    http: httpx.Client, encoding: str, body: bytes, status: int
) -> None:
    answer = http.post("/v2/models/ensemble/generate", content=body, headers={"content-encoding": encoding})
    assert answer.status_code == status, answer.text


def test_generate_and_generate_stream_pass_through(http: httpx.Client) -> None:
    body = {"text_input": PROMPT, "max_tokens": 8}
    assert "text_output" in http.post("/v2/models/ensemble/generate_stream", json={**body, "stream": True}).text
    over = {"input_ids": [300] * 20, "input_lengths": 20, "request_output_len": 4, "streaming": True}
    over |= {"lookahead_window_size": 9, "lookahead_ngram_size": 8, "lookahead_verification_set_size": 8}
    refused = http.post("/v2/models/tensorrt_llm/generate_stream", json=over)
    assert refused.status_code == 400
    assert "exceeds the engine's" in refused.json()["error"]
    long = http.post("/v2/models/ensemble/generate", json={"text_input": "x " * 9000, "max_tokens": 4})
    assert long.status_code == 400
    assert "takes at most 8191" in long.json()["error"]


@pytest.mark.parametrize(
    ("model", "verb", "wrong", "reason"),
    [
        ("ensemble", "generate", {"stream": "x"}, "^input 'stream' cannot be read"),
        ("ensemble", "generate_stream", {"stream": "x"}, "^input 'stream' cannot be read"),
        ("tensorrt_llm_bls", "generate_stream", {"stream": "x"}, "^input 'stream' cannot be read"),
        ("ensemble", "generate", {"num_return_sequences": -1}, "ask for 1 to 64$"),
        ("ensemble", "generate_stream", {"num_return_sequences": -1}, "ask for 1 to 64$"),
        ("tensorrt_llm_bls", "generate_stream", {"num_return_sequences": -1}, "ask for 1 to 64$"),
    ],
)
def test_what_triton_refuses_is_the_clients_mistake_and_no_event(
    http: httpx.Client, model: str, verb: str, wrong: dict[str, Any], reason: str
) -> None:
    """Triton says 500 for a wrong type, and wraps a stream's refusal into an event."""
    refused = http.post(f"/v2/models/{model}/{verb}", json={"text_input": PROMPT, "max_tokens": 2, **wrong})
    assert (refused.status_code, refused.headers["content-type"]) == (400, "application/json")
    assert re.search(reason, refused.json()["error"])


def test_the_guard_reads_binary_tensors_of_http_too(gateway: Serving) -> None:
    a = gateway.addresses
    with triton_http.InferenceServerClient(f"{a.host}:{a.http_port}") as client:
        values = {"input_ids": [300] * 20, "input_lengths": [20], "request_output_len": [4]}
        values |= {"lookahead_window_size": [9], "lookahead_ngram_size": [8], "lookahead_verification_set_size": [8]}
        with pytest.raises(InferenceServerException, match="exceeds the engine"):
            client.infer("tensorrt_llm", http_inputs({n: np.array([value], np.int32) for n, value in values.items()}))


def test_messages_that_are_none_are_refused(gateway: Serving) -> None:
    with grpc.insecure_channel(gateway.addresses.grpc) as channel:
        for method in ("ModelInfer", "RepositoryModelLoad", "Nothing"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"\xff\xff\xff")
            assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED)
        with pytest.raises(grpc.RpcError) as caught:
            empty = service_pb2.ModelInferRequest(model_name="nothing").SerializeToString()
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(empty)
        assert "nothing" in caught.value.details()
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter([b"\xff" * 9]))
        answers = [service_pb2.ModelStreamInferResponse.FromString(answer) for answer in stream]
        assert [answer.error_message for answer in answers] == ["the message is not a ModelInferRequest"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[]", "the body is a list: send an object"),
        (b'{"id": "\xff"}', "the body is not UTF-8: byte 0 of a text is 0xff"),
        (b'{"id": ' + b"[" * 100_000, "the body is nested too deeply"),
    ],
)
@pytest.mark.parametrize("verb", ["infer", "generate", "generate_stream"])
def test_what_is_no_object_is_refused_in_words(http: httpx.Client, verb: str, body: bytes, reason: str) -> None:
    refused = http.post(f"/v2/models/ensemble/{verb}", content=body)
    assert (refused.status_code, refused.json()["error"]) == (400, reason)


@pytest.mark.parametrize("length", [b"\xb2", b"9" * 5000, b"-1", b"1.0", b""])
def test_a_header_length_that_is_no_number_is_refused(http: httpx.Client, length: bytes) -> None:
    headers = [(b"Inference-Header-Content-Length", length)]
    refused = http.post("/v2/models/tensorrt_llm/infer", content=b"{}", headers=headers)
    assert (refused.status_code, "not a number" in refused.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("ids", "lengths", "rows", "found"),
    [(8, [3], 1, (3, 3)), (8, [], 1, (8, 8)), (8, [1, 4], 2, (1, 4)), (8, [], 2, (4, 4)), (0, [], 1, (0, 0))],
)
def test_prompt_lengths_are_those_of_each_row(ids: int, lengths: list[int], rows: int, found: tuple[int, int]) -> None:
    assert lengths_of({"input_ids": [1] * ids, "input_lengths": lengths}, rows) == found


@pytest.mark.parametrize(
    ("lengths", "rows", "reason"),
    [([9], 1, "has 8 tokens"), ([1, 5], 2, "4 tokens a row"), ([2.5], 1, "whole number"), ([1], 3, "no 3 rows")],
)
def test_lengths_that_a_row_cannot_have_are_refused(lengths: list[Any], rows: int, reason: str) -> None:
    with pytest.raises(ApiError, match=reason):
        lengths_of({"input_ids": [1] * 8, "input_lengths": lengths}, rows)


BATCH = {"input_ids": [[300] * 8200] * 2, "input_lengths": [[20], [8200]], "request_output_len": [[4], [4]]}
"""Its second prompt is too long, its first is not."""


def test_every_prompt_of_a_batch_is_checked(gateway: Serving, http: httpx.Client, client: Any) -> None:
    arrays = {name: np.array(rows, np.int32) for name, rows in BATCH.items()}
    ((_, error),) = stream(client, tensors(arrays))
    assert error is not None
    assert "8200 tokens" in error.message()
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": "INT32", "data": array.tolist()}
        for name, array in arrays.items()
    ]
    refused = http.post("/v2/models/tensorrt_llm/infer", json={"inputs": inputs})
    assert (refused.status_code, "8200 tokens" in refused.json()["error"]) == (400, True)
    a = gateway.addresses
    binary = triton_http.InferenceServerClient(f"{a.host}:{a.http_port}")
    with binary, pytest.raises(InferenceServerException, match="8200 tokens"):
        binary.infer("tensorrt_llm", http_inputs(arrays))


def test_flat_keeps_the_order_of_nested_lists() -> None:
    assert flat([[1, [2, 3]], [], 4]) == [1, 2, 3, 4]
    assert flat(7) == [7]


def test_a_stream_of_the_ensemble_has_the_events_that_triton_writes(http: httpx.Client, gateway: Serving) -> None:
    body = {"id": "mine", "text_input": "def f(", "max_tokens": 5, "stream": True, "return_log_probs": True}
    path = "/v2/models/ensemble/generate_stream"
    answers = [http.post(path, json=body), httpx.post(gateway.triton.addresses.http + path, json=body)]
    ours, tritons = ([json.loads(e.removeprefix("data: ")) for e in a.text.split("\n\n") if e] for a in answers)
    assert len(ours) == 5
    assert ours == [pytest.approx(event) for event in tritons]
    assert answers[0].headers["content-type"].startswith("text/event-stream")
