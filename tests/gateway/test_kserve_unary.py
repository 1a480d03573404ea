"""Single inferences on models that stream: the clients' first try gets the whole answer."""

import json
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from nimble_coder.client.grpc import tensors
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.kserve.json_bodies import pack, read_generate, read_infer
from nimble_coder.processes.serving import Serving

PROMPT, OTHER = "import os\nimport sys\n\ndef main(argv):\n    ", "class Stack:\n    "
TEXT_MODELS = ("ensemble", "tensorrt_llm_bls")


@pytest.fixture
def client(gateway: Serving) -> Any:
    with triton_grpc.InferenceServerClient(gateway.addresses.grpc) as client:
        yield client


@pytest.fixture
def over_http(gateway: Serving) -> Any:
    a = gateway.addresses
    with triton_http.InferenceServerClient(f"{a.host}:{a.http_port}") as client:
        yield client


def completion(http: httpx.Client, prompt: str, max_tokens: int) -> str:
    body = {"prompt": prompt, "max_tokens": max_tokens}
    return str(http.post("/v1/completions", json=body).json()["choices"][0]["text"])


def question(*prompts: str, max_tokens: int = 8, **others: Any) -> dict[str, Any]:
    rows = len(prompts)
    arrays = {
        "text_input": np.array([[prompt.encode()] for prompt in prompts], np.object_),
        "max_tokens": np.full((rows, 1), max_tokens, np.int32),
    }
    return arrays | {name: np.array([[value]] * rows) for name, value in others.items()}


def tokens(*lengths: int, **others: Any) -> dict[str, Any]:
    rows = len(lengths)
    arrays = {
        "input_ids": np.array([[300, 301, 302, 303, 300, 301, 302, 303]] * rows, np.int32),
        "input_lengths": np.full((rows, 1), 8, np.int32),
        "request_output_len": np.array([[length] for length in lengths], np.int32),
    }
    return arrays | {name: np.array([[value]] * rows) for name, value in others.items()}


@pytest.mark.parametrize("streamed", [None, False, True])
@pytest.mark.parametrize("model", TEXT_MODELS)
def test_a_single_inference_over_grpc_has_the_whole_text(
    client: Any, http: httpx.Client, model: str, streamed: bool | None
) -> None:
    asked = question(PROMPT) | ({} if streamed is None else {"stream": np.array([[streamed]])})
    answer = client.infer(model, tensors(asked), request_id="seven")
    assert answer.as_numpy("text_output")[0].decode() == completion(http, PROMPT, 8)
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("seven", model, "1")
    assert "triton_final_response" not in response.parameters


def test_only_the_outputs_that_were_asked_for_come_back(client: Any) -> None:
    wanted = [triton_grpc.InferRequestedOutput("text_output")]
    answer = client.infer("ensemble", tensors(question(PROMPT, OTHER)), outputs=wanted)
    assert [output.name for output in answer.get_response().outputs] == ["text_output"]


def test_a_batch_is_answered_in_its_order(client: Any, http: httpx.Client) -> None:
    """The second prompt's answer is ready long before the first one's."""
    asked = question(PROMPT, OTHER) | {"max_tokens": np.array([[40], [4]], np.int32)}
    texts = client.infer("ensemble", tensors(asked)).as_numpy("text_output")
    assert [text.decode() for text in texts] == [completion(http, PROMPT, 40), completion(http, OTHER, 4)]


@pytest.mark.parametrize("streaming", [False, True])
def test_token_ids_of_several_answers_lie_side_by_side(client: Any, streaming: bool) -> None:
    several = client.infer("tensorrt_llm", tensors(tokens(3, 6)))
    assert several.as_numpy("sequence_length").tolist() == [[3], [6]]
    ids = several.as_numpy("output_ids")
    assert ids.shape == (2, 1, 6)
    assert ids[0, 0, 3:].tolist() == [0, 0, 0]
    copies = tokens(6, num_return_sequences=np.int32(2), streaming=streaming)
    both = client.infer("tensorrt_llm", tensors(copies)).as_numpy("output_ids")
    assert both.tolist() == [ids[1].tolist(), ids[1].tolist()]


def test_a_stop_for_nothing_is_answered(client: Any) -> None:
    response = client.infer("tensorrt_llm", tensors(tokens(1, stop=True)), request_id="none").get_response()
    assert (response.id, len(response.outputs)) == ("none", 0)


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("model", TEXT_MODELS)
def test_the_http_tritonclient_gets_the_whole_text(
    over_http: Any, http: httpx.Client, model: str, is_binary: bool
) -> None:
    inputs = [
        triton_http.InferInput("text_input", [1, 1], "BYTES"),
        triton_http.InferInput("max_tokens", [1, 1], "INT32"),
    ]
    for tensor, array in zip(inputs, question(PROMPT).values(), strict=True):
        tensor.set_data_from_numpy(array, binary_data=is_binary)
    expected = completion(http, PROMPT, 8)
    # Without a list of outputs the client wants them all in binary.
    whole = over_http.infer(model, inputs, request_id="seven")
    assert whole.as_numpy("text_output")[0].decode() == expected
    assert whole.get_response()["id"] == "seven"
    wanted = [triton_http.InferRequestedOutput("text_output", binary_data=False)]
    shown = over_http.infer(model, inputs, outputs=wanted, request_compression_algorithm="gzip").get_response()
    assert [(output["name"], output["data"]) for output in shown["outputs"]] == [("text_output", [expected])]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", ["ensemble", "tensorrt_llm_bls", "ensemble/versions/1"])
def test_generate_has_the_whole_text(http: httpx.Client, path: str, streamed: bool) -> None:
    body = {"text_input": PROMPT, "max_tokens": 8, "stream": streamed, "somebody_elses": 1}
    answer = http.post(f"/v2/models/{path}/generate", json=body).json()
    assert answer["text_output"] == completion(http, PROMPT, 8)


def test_generate_of_several_sequences_lists_them(http: httpx.Client) -> None:
    body = {"text_input": PROMPT, "max_tokens": 8, "num_return_sequences": 2, "id": "seven"}
    answer = http.post("/v2/models/ensemble/generate", json=body).json()
    assert (answer["text_output"], answer["id"]) == ([completion(http, PROMPT, 8)] * 2, "seven")


def test_generate_takes_token_ids(http: httpx.Client, client: Any) -> None:
    body = {"input_ids": tokens(4)["input_ids"][0].tolist(), "input_lengths": 8, "request_output_len": 4}
    answer = http.post("/v2/models/tensorrt_llm/generate", json=body).json()
    assert (
        answer["output_ids"]
        == client.infer("tensorrt_llm", tensors(tokens(4))).as_numpy("output_ids").flatten().tolist()
    )


@pytest.mark.parametrize(
    ("model", "version", "asked", "reason"),
    [
        ("tensorrt_llm", "7", tokens(4), "NOT_FOUND.*version 7"),
        (
            "ensemble",
            "",
            {"text_input": question(PROMPT)["text_input"]},
            "INVALID_ARGUMENT.*max_tokens is missing",
        ),
        ("tensorrt_llm", "", tokens(4) | {"input_ids": np.ones((1, 8))}, "INVALID_ARGUMENT.*datatype|data-type"),
        ("tensorrt_llm", "", tokens(4, beam_width=np.int32(2)), "INVALID_ARGUMENT.*beam"),
        (
            "tensorrt_llm",
            "",
            tokens(4) | {"input_lengths": np.array([[9]], np.int32)},
            "INVALID_ARGUMENT.*input_lengths",
        ),
        ("ensemble", "", question("x " * 9000), "INVALID_ARGUMENT.*takes at most"),
    ],
)
def test_what_is_wrong_is_the_clients_mistake(
    client: Any, model: str, version: str, asked: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InferenceServerException, match=rf"(?s)StatusCode\.{reason}") as caught:
        client.infer(model, tensors(asked), model_version=version)
    assert "request id" not in str(caught.value)


@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
@pytest.mark.parametrize("model", TEXT_MODELS)
def test_a_form_holds_on_both_text_models(http: httpx.Client, model: str, verb: str) -> None:
    def asked(kind: str, guide: str) -> httpx.Response:
        form = {"guided_decoding_guide_type": kind, "guided_decoding_guide": guide}
        return http.post(f"/v2/models/{model}/{verb}", json={"text_input": PROMPT, "max_tokens": 8, **form})

    held = asked("regex", "zebra").text.splitlines()
    parts = [json.loads(line.removeprefix("data: "))["text_output"] for line in held if line]
    assert "".join(parts) == "zebra"
    refused = asked("zzz", "")
    assert (refused.status_code, "guided_decoding_guide_type is 'zzz'" in refused.text) == (400, True)


@pytest.mark.parametrize(
    "more",
    [
        {"return_log_probs": True},
        {"return_context_logits": True},
        {"return_generation_logits": True},
        {"use_draft_logits": True},
        {"lora_config": [1]},
        {"embedding_bias_weights": [1.0]},
        {"min_length": 9},
    ],
)
def test_the_text_model_says_what_it_does_not_do(http: httpx.Client, more: dict[str, Any]) -> None:
    body = {"text_input": PROMPT, "max_tokens": 8, **more}
    refused = http.post("/v2/models/tensorrt_llm_bls/generate", json=body)
    (name,) = more
    assert (refused.status_code, name in refused.json()["error"]) == (400, True), refused.text
    off = {key: False for key, value in more.items() if value is True}
    assert http.post("/v2/models/tensorrt_llm_bls/generate", json={**body, **off}).status_code == (200 if off else 400)


def test_more_at_once_than_the_limit_is_refused(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="generations at once is the limit"):
        client.infer("tensorrt_llm", tensors(tokens(*[4] * 32, num_return_sequences=np.int32(16))))


def test_a_deadline_is_kept(client: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("tensorrt_llm", tensors(tokens(6000)), client_timeout=0.2)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


TENSOR = {"name": "max_tokens", "shape": [1, 1], "datatype": "INT32", "data": [4]}


@pytest.mark.parametrize(
    ("content", "binary", "reason"),
    [
        ({}, b"", "list of tensors"),
        ({"inputs": [7]}, b"", "list of tensors"),
        ({"inputs": [TENSOR | {"parameters": 7}]}, b"", "no object"),
        ({"inputs": [TENSOR | {"name": 7}]}, b"", "not a text"),
        ({"inputs": [TENSOR | {"shape": 1}]}, b"", "shape is 1"),
        ({"inputs": [TENSOR | {"shape": [1.5]}]}, b"", "whole numbers"),
        ({"inputs": [TENSOR | {"datatype": "COMPLEX"}]}, b"", "not known"),
        ({"inputs": [TENSOR | {"data": [1.5]}]}, b"", "does not hold"),
        ({"inputs": [TENSOR | {"data": [2**31]}]}, b"", "does not hold"),
        ({"inputs": [TENSOR | {"data": [True]}]}, b"", "does not hold"),
        ({"inputs": [TENSOR | {"data": ["4"]}]}, b"", "does not hold"),
        ({"inputs": [TENSOR | {"datatype": "BYTES"}]}, b"", "texts only"),
        ({"inputs": [TENSOR | {"datatype": "BOOL"}]}, b"", "does not hold"),
        ({"inputs": [TENSOR | {"shape": [2**63, 1]}]}, b"", "64 bits"),
        ({"inputs": [TENSOR | {"shape": [1, -(2**63) - 1]}]}, b"", "64 bits"),
        ({"inputs": [TENSOR | {"parameters": {"binary_data_size": -1}}]}, b"", "binary_data_size"),
        ({"inputs": [TENSOR]}, b"1234", "4 bytes of binary data, its inputs 0"),
        ({"inputs": [TENSOR | {"parameters": {"shared_memory_region": "x"}}]}, b"", "shared memory"),
        (
            {"inputs": [TENSOR], "outputs": [{"name": "a", "parameters": {"shared_memory_region": "x"}}]},
            b"",
            "shared memory",
        ),
        ({"inputs": [TENSOR], "outputs": [{"name": "a", "parameters": {"classification": 3}}]}, b"", "no classes"),
        ({"inputs": [TENSOR], "outputs": 3}, b"", "list of tensors"),
        ({"inputs": [TENSOR], "id": 3}, b"", "not a text"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(content: dict[str, Any], binary: bytes, reason: str) -> None:
    with pytest.raises(ApiError, match=reason) as caught:
        read_infer(content, binary)
    assert caught.value.status == 400


def test_binary_and_json_tensors_mix() -> None:
    binary = {"name": "top_k", "shape": [1], "datatype": "INT32", "parameters": {"binary_data_size": 4}}
    given = {"priority": 3, "who": "x", "fast": True, "share": 0.5, "nothing": None}
    request = read_infer({"inputs": [TENSOR, binary], "parameters": given}, b"\7\0\0\0")
    assert list(request.raw_input_contents) == [b"\4\0\0\0", b"\7\0\0\0"]
    assert request.parameters["priority"].int64_param == 3
    assert (request.parameters["who"].string_param, request.parameters["fast"].bool_param) == ("x", True)
    assert request.parameters["share"].double_param == 0.5
    assert "nothing" not in request.parameters


@pytest.mark.parametrize(
    ("datatype", "values", "raw"),
    [
        ("BYTES", ["é", ""], b"\2\0\0\0\xc3\xa9\0\0\0\0"),
        ("BOOL", [True, False], b"\1\0"),
        ("UINT64", [2**64 - 1], b"\xff" * 8),
        ("INT8", [-1], b"\xff"),
        ("FP32", [1, 0.5], b"\0\0\x80?\0\0\0?"),
    ],
)
def test_elements_of_json_become_tensors(datatype: str, values: list[Any], raw: bytes) -> None:
    assert pack("x", datatype, values) == raw


@pytest.mark.parametrize("value", [[[1]], {"a": 1}, "x", 1.5])
def test_a_generate_field_of_the_wrong_kind_is_refused(value: object) -> None:
    config = model_config_pb2.ModelConfig()
    config.input.add(name="max_tokens", data_type=model_config_pb2.TYPE_INT32)
    with pytest.raises(ApiError, match="does not hold"):
        read_generate({"max_tokens": value}, config)
    assert not read_generate({"max_tokens": None}, config).inputs


def test_one_tensor_in_the_contents_of_the_message_is_answered(gateway: Serving) -> None:
    """Other languages' clients fill the typed contents instead of the raw ones."""
    request = triton_grpc.service_pb2.ModelInferRequest(model_name="ensemble")
    text = request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    text.contents.bytes_contents.append(PROMPT.encode())
    length = request.inputs.add(name="max_tokens", datatype="INT32", shape=[1, 1])
    length.contents.int_contents.append(8)
    flag = request.inputs.add(name="stream", datatype="BOOL", shape=[1, 1])
    flag.contents.bool_contents.append(True)
    with grpc.insecure_channel(gateway.addresses.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = triton_grpc.service_pb2.ModelInferResponse.FromString(call(request.SerializeToString()))
    names = [output.name for output in answer.outputs]
    assert len(answer.raw_output_contents[names.index("text_output")]) > 8


def test_json_numbers_of_an_answer_are_numbers(http: httpx.Client) -> None:
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": "INT32", "data": array.tolist()}
        for name, array in tokens(4).items()
    ]
    answer = http.post("/v2/models/tensorrt_llm/infer", content=json.dumps({"inputs": inputs}))
    found = {output["name"]: output for output in answer.json()["outputs"]}
    assert (found["output_ids"]["shape"], found["sequence_length"]["data"]) == ([1, 1, 4], [4])


@pytest.mark.parametrize(
    ("contents", "raw"),
    [([], 0), ([], 2), ([300], 1), ([300], 2)],
    ids=["no data", "more raw data than inputs", "data twice", "data twice and more"],
)
@pytest.mark.parametrize("name", ["temperature", "no_such_input"])
def test_an_input_without_its_data_is_the_client_s_mistake(
    gateway: Serving, name: str, contents: list[int], raw: int
) -> None:
    request = service_pb2.ModelInferRequest(model_name="tensorrt_llm")
    request.inputs.add(name=name, datatype="INT32", shape=[1, 1]).contents.int_contents.extend(contents)
    request.raw_input_contents.extend([b"\0\0\0\0"] * raw)
    with grpc.insecure_channel(gateway.addresses.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()


TEXT = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["import os"]}
MOST = {"name": "max_tokens", "shape": [1, 1], "datatype": "INT32", "data": [2]}


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"inputs": [{**TEXT, "shape": [2, 1]}, MOST]},
        {"inputs": [{**TEXT, "shape": [-1, 1]}, MOST]},
        {"inputs": [{**TEXT, "shape": []}, MOST]},
        {"inputs": [{**TEXT, "shape": [0, 1], "data": []}, {**MOST, "shape": [0, 1], "data": []}]},
        {"inputs": [{**TEXT, "data": []}, MOST]},
        {"inputs": [TEXT, MOST, {**MOST, "name": "none"}]},
        {"inputs": [TEXT, MOST], "outputs": [{"name": "none"}]},
        {"inputs": [TEXT, MOST], "parameters": [1]},
        {"inputs": [TEXT, MOST], "parameters": "x"},
        {"inputs": [TEXT, MOST], "outputs": [{"name": "text_output", "parameters": [1]}]},
    ],
    ids=[
        "rows",
        "below 0",
        "no shape",
        "none",
        "no data",
        "input",
        "output",
        "a list",
        "a text",
        "a list of an output",
    ],
)
def test_whatever_is_wrong_with_tensors_is_the_client_s_mistake(
    http: httpx.Client, model: str, wrong: dict[str, Any]
) -> None:
    answer = http.post(f"/v2/models/{model}/infer", json=wrong)
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("version", ["x", "%201"])
def test_a_path_with_a_version_that_is_no_number_is_not_there(http: httpx.Client, version: str) -> None:
    answer = http.post(f"/v2/models/ensemble/versions/{version}/generate", json={"text_input": "x", "max_tokens": 1})
    assert answer.status_code == 404, answer.text
