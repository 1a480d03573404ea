"""What is passed on to Triton is what was checked, and no text holds a model's only process."""

import gzip
import json
import queue
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from nimble_coder.client.grpc import tensors
from nimble_coder.processes.serving import Serving

REGION = '"parameters":{"shared_memory_region":"r","shared_memory_byte_size":16}'
HIDDEN = f'{{"name":"QUERY","shape":[1,1],"datatype":"BYTES",{REGION}}}'
QUERY = '{"name":"QUERY","shape":[1,1],"datatype":"BYTES","data":["import os"]}'
LENGTH = '{"name":"REQUEST_OUTPUT_LEN","shape":[1,1],"datatype":"INT32","data":[4]}'
LONG = "x " * 9000


def infer(http: httpx.Client, body: str, model: str = "preprocessing", **headers: str) -> httpx.Response:
    return http.post(f"/v2/models/{model}/infer", content=body, headers=headers)


@pytest.mark.parametrize(
    "body",
    [
        f'{{"inputs":[{HIDDEN},{LENGTH}],"inputs":[{QUERY},{LENGTH}]}}',
        f'{{"inputs":[{HIDDEN},{LENGTH}],"\\u0069nputs":[{QUERY},{LENGTH}]}}',
        f'{{"inputs":[{HIDDEN[:-1]},"parameters":{{}},"data":["import os"]}},{LENGTH}]}}',
        f'{{"inputs":[{QUERY},{LENGTH}],"outputs":[{{"name":"INPUT_ID",{REGION}}}],"outputs":[]}}',
    ],
    ids=["inputs", "escaped", "parameters", "outputs"],
)
def test_of_two_values_with_one_key_triton_gets_the_one_that_was_checked(http: httpx.Client, body: str) -> None:
    """Triton reads the first, and would look for the region."""
    answer = infer(http, body)
    assert answer.status_code == 200, answer.text
    assert infer(http, body, **{"inference-header-content-length": str(len(body))}).status_code == 200


def test_a_prompt_that_is_too_long_does_not_hide_behind_another(http: httpx.Client) -> None:
    body = f'{{"text_input":"{LONG}","text_input":"import os","max_tokens":2}}'
    assert http.post("/v2/models/ensemble/generate", content=body).json()["model_name"] == "ensemble"
    names = [QUERY.replace("import os", LONG), QUERY, LENGTH]
    assert infer(http, f'{{"inputs":[{",".join(names)}]}}').status_code == 400
    assert infer(http, f'{{"inputs":[{",".join(reversed(names))}]}}').status_code == 400


@pytest.mark.parametrize("tensor", ["inputs", "outputs"])
def test_shared_memory_is_refused_on_both_sides(http: httpx.Client, tensor: str) -> None:
    outputs = f'{{"name":"INPUT_ID",{REGION}}}' if tensor == "outputs" else ""
    query = HIDDEN if tensor == "inputs" else QUERY
    refused = infer(http, f'{{"inputs":[{query},{LENGTH}],"outputs":[{outputs}]}}')
    assert (refused.status_code, "is in shared memory" in refused.json()["error"]) == (400, True)


@pytest.mark.parametrize("outputs", ['"x"', '["x"]', "{}", "null"])
def test_outputs_that_are_none_are_refused(http: httpx.Client, outputs: str) -> None:
    assert infer(http, f'{{"inputs":[{QUERY},{LENGTH}],"outputs":{outputs}}}').status_code == 400


def test_an_output_in_shared_memory_is_refused_over_grpc(gateway: Serving) -> None:
    wanted = triton_grpc.InferRequestedOutput("INPUT_ID")
    wanted.set_shared_memory("region", 16)
    given = tensors({"QUERY": np.array([[b"x"]], np.object_), "REQUEST_OUTPUT_LEN": np.array([[4]], np.int32)})
    client = triton_grpc.InferenceServerClient(gateway.addresses.grpc)
    with client, pytest.raises(InferenceServerException, match="output 'INPUT_ID' is in shared memory"):
        client.infer("preprocessing", given, outputs=[wanted])


@pytest.mark.parametrize("classes", [0, 2])
def test_classes_that_would_end_triton_are_refused_over_http(http: httpx.Client, classes: int) -> None:
    # Triton compares what an output holds without asking whether it holds anything, and ends with a signal.
    wanted = f'{{"name":"DECODER_INPUT_ID","parameters":{{"classification":{classes}}}}}'
    refused = infer(http, f'{{"inputs":[{QUERY},{LENGTH}],"outputs":[{wanted}]}}')
    assert (refused.status_code, "has no classes" in refused.json()["error"]) == (400, True)
    assert infer(http, f'{{"inputs":[{QUERY},{LENGTH}]}}').status_code == 200


@pytest.mark.parametrize("is_streamed", [False, True], ids=["ModelInfer", "ModelStreamInfer"])
@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_classes_that_would_end_triton_are_refused_over_grpc(gateway: Serving, model: str, is_streamed: bool) -> None:
    wanted = triton_grpc.InferRequestedOutput("text_output", class_count=1)
    given = tensors({"text_input": np.array([[b"import os"]], np.object_), "max_tokens": np.array([[2]], np.int32)})
    answers = queue.SimpleQueue[tuple[object, object]]()
    with triton_grpc.InferenceServerClient(gateway.addresses.grpc) as client:
        if is_streamed:
            client.start_stream(lambda result, error: answers.put((result, error)))
            client.async_stream_infer(model, given, outputs=[wanted])
            assert "has no classes" in str(answers.get(timeout=20)[1])
            client.stop_stream()
        else:
            with pytest.raises(InferenceServerException, match="has no classes"):
                client.infer(model, given, outputs=[wanted])


def test_a_short_prompt_without_a_window_is_taken_over_every_way(http: httpx.Client) -> None:
    body = {"input_ids": [300, 301], "input_lengths": 2, "request_output_len": 2, "streaming": True}
    answer = http.post("/v2/models/tensorrt_llm/generate_stream", json=body)
    assert (answer.status_code, answer.text.count("output_ids") > 0) == (200, True), answer.text


def test_binary_data_still_follows_what_was_written_anew(gateway: Serving) -> None:
    a = gateway.addresses
    with triton_http.InferenceServerClient(f"{a.host}:{a.http_port}") as client:
        texts = np.array([[b"import os"], ["größe".encode()]], np.object_)
        inputs = [
            triton_http.InferInput("QUERY", [2, 1], "BYTES"),
            triton_http.InferInput("REQUEST_OUTPUT_LEN", [2, 1], "INT32"),
        ]
        inputs[0].set_data_from_numpy(texts, binary_data=True)
        inputs[1].set_data_from_numpy(np.array([[4], [4]], np.int32), binary_data=True)
        for compression in (None, "gzip"):
            answer = client.infer("preprocessing", inputs, request_id="a", request_compression_algorithm=compression)
            lengths = answer.as_numpy("REQUEST_INPUT_LEN")
            assert lengths is not None
            assert lengths.tolist()[0] == [2]
            assert lengths.tolist()[1][0] >= 2


@pytest.mark.parametrize(
    ("model", "long"),
    [
        ("preprocessing", {"QUERY": LONG}),
        ("preprocessing", {"STOP_WORDS_DICT": [LONG]}),
        ("preprocessing", {"BAD_WORDS_DICT": ["x " * 5000, "y " * 5000]}),
        ("ensemble", {"text_input": LONG}),
        ("ensemble", {"stop_words": [LONG]}),
        ("tensorrt_llm_bls", {"text_input": LONG}),
        ("tensorrt_llm_bls", {"bad_words": [LONG]}),
        ("postprocessing", {"TOKENS_BATCH": [1] * 300_000}),
        ("tensorrt_llm", {"bad_words_list": [1] * 70_000}),
        ("tensorrt_llm", {"stop_words_list": [1] * 70_000}),
    ],
)
def test_no_text_holds_a_models_process(gateway: Serving, http: httpx.Client, model: str, long: dict[str, Any]) -> None:
    given = {"QUERY": "import os", "REQUEST_OUTPUT_LEN": 4, "text_input": "import os", "max_tokens": 2}
    refused = http.post(f"/v2/models/{model}/generate", json={**given, **long})
    assert refused.status_code == 400
    assert "tokens, " in refused.json()["error"]
    (name, value) = next(iter(long.items()))
    kind = "INT32" if model in ("postprocessing", "tensorrt_llm") else "BYTES"
    values = value if isinstance(value, list) else [value]
    tensor = {"name": name, "shape": [1, len(values)], "datatype": kind, "data": values}
    assert "tokens, " in infer(http, json.dumps({"inputs": [tensor]}), model).json()["error"]
    array = np.array([values], np.int32) if kind == "INT32" else np.array([[v.encode() for v in values]], np.object_)
    client = triton_grpc.InferenceServerClient(gateway.addresses.grpc)
    with client, pytest.raises(InferenceServerException, match="tokens, "):
        client.infer(model, tensors({name: array}))


def test_a_text_of_the_largest_body_is_refused_while_others_are_answered(http: httpx.Client) -> None:
    body = json.dumps({"QUERY": "ab c" * 500_000, "REQUEST_OUTPUT_LEN": 4}).encode()
    refused = http.post(
        "/v2/models/preprocessing/generate", content=gzip.compress(body), headers={"content-encoding": "gzip"}
    )
    assert (refused.status_code, "takes at most" in refused.json()["error"]) == (400, True)


def test_preprocessing_still_takes_an_empty_text(http: httpx.Client) -> None:
    assert (
        http.post("/v2/models/preprocessing/generate", json={"QUERY": "", "REQUEST_OUTPUT_LEN": 4}).status_code == 200
    )


@pytest.mark.parametrize(
    ("ids", "length", "status"),
    [
        ([5, -2, 6], 2, 400),
        ([5, 6, -1], 2, 200),
        ([5, 2**31 - 1, 6], 2, 200),
        ([5, 6, 7], -1, 400),
        ([5, 6, 7], 0, 200),
        ([5, 6, 7], 99, 200),
    ],
)
def test_a_negative_id_before_a_text_s_end_or_a_negative_length_is_the_client_s_mistake(
    http: httpx.Client, ids: list[int], length: int, status: int
) -> None:
    """Behind it pads may be negative; an id that the vocabulary lacks has no text."""
    tensors_of = [
        {"name": "TOKENS_BATCH", "shape": [1, 1, 3], "datatype": "INT32", "data": ids},
        {"name": "SEQUENCE_LENGTH", "shape": [1, 1], "datatype": "INT32", "data": [length]},
    ]
    answer = infer(http, json.dumps({"inputs": tensors_of}), "postprocessing")
    assert (answer.status_code, "out of range" in answer.text) == (status, status == 400), answer.text


@pytest.mark.parametrize("lengths", [[], [1, 2]])
def test_a_number_of_lengths_that_is_not_that_of_the_rows_is_the_client_s_mistake(
    http: httpx.Client, lengths: list[int]
) -> None:
    tensors_of = [
        {"name": "TOKENS_BATCH", "shape": [1, 1, 3], "datatype": "INT32", "data": [5, 6, 7]},
        {"name": "SEQUENCE_LENGTH", "shape": [1, len(lengths)], "datatype": "INT32", "data": lengths},
    ]
    answer = infer(http, json.dumps({"inputs": tensors_of}), "postprocessing")
    assert (answer.status_code, "TOKENS_BATCH has 1 rows" in answer.text) == (400, True), answer.text


@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("model", "missing", "others"),
    [
        ("ensemble", "text_input", {"max_tokens": 3, "stream": True}),
        ("ensemble", "max_tokens", {"text_input": "x", "stream": True, "top_k": 1}),
        ("tensorrt_llm_bls", "text_input", {"max_tokens": 3, "stream": True}),
        ("tensorrt_llm_bls", "max_tokens", {"text_input": "x", "stream": True}),
        ("preprocessing", "QUERY", {"REQUEST_OUTPUT_LEN": 3, "END_ID": 3}),
        ("preprocessing", "REQUEST_OUTPUT_LEN", {"QUERY": "x", "END_ID": 3}),
    ],
)
def test_an_input_that_is_missing_is_refused_where_another_makes_up_their_number(
    http: httpx.Client, model: str, missing: str, others: dict[str, object], verb: str
) -> None:
    """Triton only counts them."""
    refused = http.post(f"/v2/models/{model}/{verb}", json=others)
    assert (refused.status_code, refused.json()) == (400, {"error": f"{missing} is missing: send it"})
