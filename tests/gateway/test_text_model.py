"""The model `tensorrt_llm_bls`, which the gateway answers by itself."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2

from build_engine.artifact import Artifact
from nimble_coder.contract.refusals import BY_TEXT
from nimble_coder.gateway.errors import from_triton
from nimble_coder.gateway.kserve.tensors import add_outputs, read_inputs
from nimble_coder.gateway.kserve.text_model import TEXT_MODEL, TextModel
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.settings import GatewaySettings
from nimble_coder.processes.serving import Serving

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
AT_ONCE, STREAMS, TOKENS = 24, 720, 6


def request(prompt: bytes, tokens: int) -> service_pb2.ModelInferRequest:
    """A streamed one, its content typed."""
    asked = service_pb2.ModelInferRequest(model_name=TEXT_MODEL, id="everyone's")
    asked.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(prompt)
    asked.inputs.add(name="max_tokens", datatype="INT32", shape=[1, 1]).contents.int_contents.append(tokens)
    asked.inputs.add(name="stream", datatype="BOOL", shape=[1, 1]).contents.bool_contents.append(True)
    asked.outputs.add(name="text_output")
    return asked


async def text_of(channel: Any, prompt: bytes, leaves_after: int) -> bytes:
    """What a stream brings, up to so many answers."""
    call = channel.stream_stream(
        METHOD,
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
    )(iter([request(prompt, TOKENS)]))
    text, answers = b"", 0
    async for answer in call:
        assert not answer.error_message
        assert answer.infer_response.id == "everyone's"
        text += b"".join(content[4:] for content in answer.infer_response.raw_output_contents)
        answers += 1
        if answers == leaves_after:
            call.cancel()
            break
    return text


async def crowd(address: str, prompts: list[bytes]) -> dict[bytes, set[bytes]]:
    """What many streams at once bring by prompt, every second of which somebody leaves."""
    waiting, found = iter(range(STREAMS)), {prompt: set[bytes]() for prompt in prompts}

    async def client(channel: Any) -> None:
        for number in waiting:
            prompt = prompts[number // 2 % len(prompts)]
            text = await text_of(channel, prompt, 1 + number % 5 if number % 2 else 0)
            if not number % 2:
                found[prompt].add(text)

    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.gather(*(client(channel) for _ in range(AT_ONCE)))
    return found


def test_many_streams_at_once_go_on_and_say_what_each_says_alone(gateway: Serving, http: httpx.Client) -> None:
    """In Triton itself two dozen of them stand still within seconds, and with them everybody's."""
    prompts = [b"def f(x):", b"import os\n", "größer ".encode()]
    found = asyncio.run(asyncio.wait_for(crowd(gateway.addresses.grpc, prompts), 120))
    for prompt in prompts:
        body = {"text_input": prompt.decode(), "max_tokens": TOKENS}
        alone = http.post(f"/v2/models/{TEXT_MODEL}/generate", json=body).json()["text_output"]
        assert found[prompt] == {alone.encode()}


def test_parameters_that_only_triton_looks_at_are_refused_as_ever(gateway: Serving) -> None:
    async def ask(name: str, kind: str, value: Any) -> str:
        asked = request(b"x", 1)
        setattr(asked.parameters[name], kind, value)
        async with grpc.aio.insecure_channel(gateway.addresses.grpc) as channel:
            call = channel.stream_stream(METHOD)(iter([asked.SerializeToString()]))
            answers = [service_pb2.ModelStreamInferResponse.FromString(message) async for message in call]
        return str(answers[-1].error_message)

    assert "for 'priority' parameter" in asyncio.run(ask("priority", "string_param", "1"))
    assert "for 'sequence_start' parameter" in asyncio.run(ask("sequence_start", "int64_param", 1))
    assert "reserved for Triton usage" in asyncio.run(ask("triton_hello", "int64_param", 1))
    assert not asyncio.run(ask("hello", "int64_param", 1))


def test_responses_hold_the_whole_text_so_far_where_the_model_is_configured_so(artifact: Artifact) -> None:
    service = Service(GatewaySettings(artifact=artifact.directory, triton_grpc_port=1, triton_http_port=1))

    async def engine(_: Any) -> AsyncGenerator[service_pb2.ModelStreamInferResponse, None]:
        for number, token in enumerate(service.tokenizer.encode("def f(x):")):
            answer = service_pb2.ModelStreamInferResponse()
            ids = {"output_ids": np.array([[[token]]], np.int32), "sequence_index": np.zeros((1, 1), np.int32)}
            add_outputs(answer.infer_response, ids)
            assert number < 20
            yield answer

    async def run(accumulates: str) -> list[bytes]:
        model = TextModel(service, engine)
        model.config.parameters["accumulate_tokens"].string_value = accumulates
        answers = [answer.infer_response async for answer in model.responses(request(b"x", 9))]
        return [answer.raw_output_contents[0][4:] for answer in answers if answer.outputs]

    pieces, texts = asyncio.run(run("false")), asyncio.run(run("true"))
    assert len(pieces) > 1
    assert texts == [b"".join(pieces[: count + 1]) for count in range(len(pieces))]


@pytest.fixture(scope="module")
def config(artifact: Artifact) -> model_config_pb2.ModelConfig:
    text = (artifact.repository / TEXT_MODEL / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_inputs_are_read_raw_and_typed_as_the_model_has_them(config: model_config_pb2.ModelConfig) -> None:
    asked = request(b"x", 3)
    asked.inputs.add(name="top_p", datatype="FP32", shape=[1, 1]).contents.fp32_contents.append(0.5)
    asked.inputs.add(name="num_return_sequences", datatype="INT32", shape=[1, 1]).contents.int_contents.append(2)
    typed = read_inputs(asked, config)
    raws = [b"\1\0\0\0x", b"\3\0\0\0", b"\1", b"\0\0\0\x3f", b"\2\0\0\0"]
    for tensor, raw in zip(asked.inputs, raws, strict=True):
        tensor.ClearField("contents")
        asked.raw_input_contents.append(raw)
    read = read_inputs(asked, config)
    assert read.keys() == typed.keys()
    for name, array in read.items():
        assert array.dtype == typed[name].dtype
        np.testing.assert_array_equal(array, typed[name])
    assert (read["text_input"].tolist(), read["num_return_sequences"].shape) == ([[b"x"]], (1,))


def raw(name: str, datatype: str, shape: list[int], content: bytes) -> service_pb2.ModelInferRequest:
    """A request with one input that is to be refused."""
    asked = service_pb2.ModelInferRequest(model_name=TEXT_MODEL)
    asked.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    asked.inputs.add(name="max_tokens", datatype="INT32", shape=[1, 1])
    asked.raw_input_contents.extend([b"\1\0\0\0x", b"\3\0\0\0"])
    if name in ("text_input", "max_tokens"):
        place = ["text_input", "max_tokens"].index(name)
        del asked.inputs[place], asked.raw_input_contents[place]
    asked.inputs.add(name=name, datatype=datatype, shape=shape)
    asked.raw_input_contents.append(content)
    return asked


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "content", "reason"),
    [
        ("hello", "INT32", [1, 1], b"\0\0\0\0", "unexpected inference input 'hello'"),
        ("max_tokens", "INT64", [1, 1], bytes(8), "data-type is 'INT64', model 'tensorrt_llm_bls' expects 'INT32'"),
        ("max_tokens", "", [1, 1], bytes(4), "data-type is '', model"),
        ("max_tokens", "INT32", [1], bytes(4), r"unexpected shape for input 'max_tokens'.*\[-1, 1\], got \[1\]"),
        ("max_tokens", "INT32", [1, 2], bytes(8), "unexpected shape"),
        ("max_tokens", "INT32", [1, -1], bytes(4), "unexpected shape"),
        ("max_tokens", "INT32", [0, 1], b"", "batch-size must be from 1 to 32"),
        ("max_tokens", "INT32", [2**40, 1], bytes(4), "batch-size must be from 1 to 32"),
        ("max_tokens", "INT32", [2, 1], bytes(8), "batch-size does not match"),
        ("max_tokens", "INT32", [1, 1], bytes(5), "unexpected total byte size 5 for input 'max_tokens': expecting 4"),
        ("text_input", "BYTES", [1, 1], b"\1\0\0\0xy", "string elements for inference input 'text_input' are not 1"),
        ("text_input", "BYTES", [1, 1], b"\xff\xff\xff\xffx", "string elements for inference input 'text_input'"),
        ("text_input", "BYTES", [1, 1], b"\1\0", "string elements for inference input 'text_input'"),
        ("stop_words", "BYTES", [1, 2**62], b"", "string elements for inference input 'stop_words'"),
        ("top_k", "INT32", [1, 1], b"", "unexpected total byte size 0"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_in_words_that_mean_400(
    config: model_config_pb2.ModelConfig, name: str, datatype: str, shape: list[int], content: bytes, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        read_inputs(raw(name, datatype, shape, content), config)
    assert next(status for pattern, status, _ in BY_TEXT if pattern.search(str(refused.value))) == 400


def test_a_missing_input_and_one_that_comes_twice_are_refused(
    config: model_config_pb2.ModelConfig,
) -> None:
    asked = request(b"x", 3)
    asked.inputs.append(asked.inputs[0])
    with pytest.raises(ValueError, match="'text_input' already exists"):
        read_inputs(asked, config)
    del asked.inputs[3], asked.inputs[0]
    with pytest.raises(ValueError, match="text_input is missing"):
        read_inputs(asked, config)
    asked = request(b"x", 3)
    asked.raw_input_contents.append(b"")
    with pytest.raises(ValueError, match="3 are named, 1 have content"):
        read_inputs(asked, config)
    asked = request(b"x", 3)
    asked.inputs[0].contents.bytes_contents.append(b"y")
    with pytest.raises(ValueError, match="its shape says 1 elements, it has 2"):
        read_inputs(asked, config)


VERSIONS = ["1", "01", " 1", "+1", "1.0", "1a", "-1", "-0", "0", "2", "one", "１", str(2**63 - 1), str(2**63), "9" * 60]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_means_what_it_means_to_triton(gateway: Serving, http: httpx.Client, version: str) -> None:
    asked = request(b"def f", 2)
    asked.model_version = version
    own, tritons = (refusal_of(a.grpc, asked) for a in (gateway.addresses, gateway.triton.addresses))
    assert own == tritons
    path, body = f"/v2/models/{TEXT_MODEL}/versions/{quote(version)}/generate", {"text_input": "x", "max_tokens": 1}
    of_triton = httpx.post(f"{gateway.triton.addresses.http}{path}", json=body)
    assert http.post(path, json=body).status_code == of_triton.status_code


def refusal_of(address: str, asked: service_pb2.ModelInferRequest) -> int | None:
    """The status that a model's refusal means; none where it answers."""
    with grpc.insecure_channel(address) as channel:
        answers = channel.stream_stream(
            METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )(iter([asked]))
        errors = [answer.error_message for answer in answers if answer.error_message]
    return from_triton(errors[0]).status if errors else None


def test_content_that_would_not_be_read_is_refused(config: model_config_pb2.ModelConfig) -> None:
    asked = request(b"x", 3)
    asked.inputs[1].contents.int64_contents.append(4)
    with pytest.raises(ValueError, match=r"unexpected explicit tensor data for input tensor 'max_tokens'.*int64_c"):
        read_inputs(asked, config)
    asked = request(b"x", 3)
    asked.raw_input_contents.extend([b"\1\0\0\0y", b"\4\0\0\0", b"\1"])
    with pytest.raises(ValueError, match="must not be specified when using raw_input_contents: 'text_input'"):
        read_inputs(asked, config)
