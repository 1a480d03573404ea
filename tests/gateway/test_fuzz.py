"""Whatever is sent, nothing fails inside, nothing hangs, and nobody else's request is harmed; and every answer is one
that the OpenAPI document describes.

The engine is the benchmark's stand-in, so that cases cost little; everything in front of it is real. The number of
cases of each test is `NIMBLE_FUZZ_CASES`; `scripts/fuzz` runs the whole of it, more than 30,000.
"""

import json
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from build_engine.artifact import Artifact
from nimble_coder.gateway.apis.openapi import build
from nimble_coder.gateway.apis.routes import ROUTES
from nimble_coder.gateway.requests import fields
from nimble_coder.processes.gateway import GatewayProcesses
from tests.gateway.conformance import CheckingClient
from tests.gateway.conftest import stand_in_gateway
from tests.gateway.fuzzing import (
    BASES,
    CASES,
    FIELDS,
    FINE,
    OUTPUTS,
    RUNNABLE,
    TEXT_MODELS,
    Bystander,
    anything,
    check,
    fuzz,
    numbers,
    parameters,
    printable,
    set_parameters,
    strings,
    tensors,
    wanted,
)

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def target(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcesses]:
    """A gateway over the stand-in, with a bystander; what went wrong shows at the end."""
    work = tmp_path_factory.mktemp("fuzz")
    with stand_in_gateway(artifact, work, tokens_per_step=512, interval=0.001) as (triton, gateways):
        bystander = Bystander(gateways.addresses.http)
        yield gateways
        bystander.end()
        gateways.check()
        assert triton.poll() is None
    log = (work / "log").read_text(errors="replace")
    assert "Traceback" not in log, log[log.index("Traceback") :][:3000]
    assert bystander.answers
    assert bystander.wrong == []


@pytest.fixture(scope="module")
def http(target: GatewayProcesses) -> Iterator[httpx.Client]:
    with CheckingClient(base_url=target.addresses.http, timeout=15) as client:
        yield client


schema = schemathesis.openapi.from_dict(build(ROUTES))


@schema.parametrize()
@settings(parent=fuzz, max_examples=max(CASES // 10, 5))
def test_what_the_openapi_document_allows_and_what_it_does_not(
    case: schemathesis.Case[Any], http: httpx.Client
) -> None:
    arguments = case.as_transport_kwargs(base_url=str(http.base_url))
    sent = {name: value for name, value in arguments.items() if name in ("method", "url", "json", "data", "headers")}
    data = sent.pop("data", None)
    if data is not None:
        sent["content" if isinstance(data, (str, bytes)) else "data"] = data
    try:
        request = http.build_request(**sent)
    except (httpx.InvalidURL, UnicodeError, TypeError, ValueError):
        return  # not something an HTTP client can send
    try:
        check(http.send(request))
    except httpx.LocalProtocolError:
        return


@fuzz
@given(base=st.sampled_from(BASES), changes=st.dictionaries(st.sampled_from(FIELDS), anything, max_size=4))
def test_fields_of_any_value(http: httpx.Client, base: tuple[str, dict[str, Any]], changes: dict[str, Any]) -> None:
    path, body = base
    check(http.post(path, json={**body, **changes}))


@fuzz
@given(
    base=st.sampled_from(BASES[:7]),
    asked=st.dictionaries(st.sampled_from(sorted(fields.FIELDS)), st.none() | anything, max_size=3),
    named=st.lists(st.sampled_from(sorted(fields.FIELDS)), max_size=5),
    more=st.dictionaries(st.text(max_size=8), anything, max_size=2),
)
def test_fields_of_the_table_with_their_examples_and_others_together(
    http: httpx.Client, base: tuple[str, dict[str, Any]], asked: dict[str, Any], named: list[str], more: dict[str, Any]
) -> None:
    body = {**base[1], **more}
    for name in (*named, *asked):
        outer, _, inner = name.partition(".")
        value = asked.get(name, fields.FIELDS[name].example)
        held = body.get(outer)
        body[outer] = {**(held if isinstance(held, dict) else {}), inner: value} if inner else value
    check(http.post(base[0], json=body))


@fuzz
@given(path=st.sampled_from([path for path, _ in BASES]), body=st.binary(max_size=200))
def test_bodies_of_any_bytes(http: httpx.Client, path: str, body: bytes) -> None:
    check(http.post(path, content=body))


@fuzz
@given(base=st.sampled_from(BASES), place=st.integers(0, 200), byte=st.integers(0, 255), cut=st.booleans())
def test_bodies_with_a_broken_byte(
    http: httpx.Client, base: tuple[str, dict[str, Any]], place: int, byte: int, cut: bool
) -> None:
    content = bytearray(json.dumps({**base[1], "prompt": "é🦀 text"}, ensure_ascii=False).encode())
    place %= len(content)
    content[place] = byte
    check(http.post(base[0], content=bytes(content[: place + 1] if cut else content)))


@fuzz
@given(prompt=st.one_of(strings, st.lists(strings, max_size=3), st.lists(numbers, max_size=5)), stop=st.lists(strings))
def test_prompts_of_any_text(http: httpx.Client, prompt: object, stop: list[str]) -> None:
    check(http.post("/v1/completions", json={"prompt": prompt, "stop": stop, "max_tokens": 8}))


@fuzz
@given(
    path=st.one_of(st.sampled_from([path for path, _ in BASES]), printable),
    method=st.sampled_from(["GET", "POST", "PUT", "OPTIONS", "HEAD", "PATCH", "X"]),
    headers=st.dictionaries(
        st.sampled_from(
            ["x-request-id", "authorization", "x-api-key", "origin", "accept", "content-type", "transfer-encoding",
             "inference-header-content-length", "access-control-request-headers", "content-length", "expect"]
        ),
        printable, max_size=4,
    ),
)  # fmt: skip
def test_heads_of_any_kind(target: GatewayProcesses, path: str, method: str, headers: dict[str, str]) -> None:
    """Sent raw: an HTTP client would refuse half of them."""
    lines = [
        f"{method} /{path.lstrip('/')} HTTP/1.1",
        "Host: x",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    with socket.create_connection((target.addresses.host, target.addresses.http_port), timeout=15) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert not answer or int(answer[9:12]) < 500


@pytest.fixture(scope="module")
def channel(target: GatewayProcesses) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target.addresses.grpc) as channel:
        yield channel


def call(channel: grpc.Channel, method: str, message: bytes) -> grpc.StatusCode:
    try:
        if method == "ModelStreamInfer":
            list(channel.stream_stream(f"/inference.GRPCInferenceService/{method}")(iter([message]), timeout=15))
        else:
            channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(message, timeout=15)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@fuzz
@given(
    method=st.sampled_from(["ModelInfer", "ModelStreamInfer", "ModelConfig", "ModelReady", "RepositoryModelLoad", "X"]),
    message=st.binary(max_size=100),
)
def test_grpc_messages_of_any_bytes(channel: grpc.Channel, method: str, message: bytes) -> None:
    assert call(channel, method, message) in FINE


@fuzz
@given(
    inputs=st.lists(tensors, max_size=6),
    raw=st.lists(st.binary(max_size=40), max_size=6),
    model=st.sampled_from(["tensorrt_llm", "tensorrt_llm", "ensemble", *TEXT_MODELS, "none", ""]),
    method=st.sampled_from(["ModelInfer", "ModelStreamInfer"]),
)
def test_grpc_requests_of_any_tensors(
    channel: grpc.Channel, inputs: list[dict[str, Any]], raw: list[bytes], model: str, method: str
) -> None:
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=raw)
    for tensor in inputs:
        request.inputs.add(**tensor)
    assert call(channel, method, request.SerializeToString()) in FINE


@fuzz
@given(
    model=st.sampled_from([*RUNNABLE]),
    method=st.sampled_from(["ModelInfer", "ModelStreamInfer"]),
    own=parameters,
    of_inputs=parameters,
    outputs=wanted,
)
def test_grpc_requests_that_run_with_parameters_of_any_kind(
    channel: grpc.Channel,
    model: str,
    method: str,
    own: dict[str, Any],
    of_inputs: dict[str, Any],
    outputs: list[tuple[int, dict[str, Any]]],
) -> None:
    request = service_pb2.ModelInferRequest(model_name=model)
    set_parameters(request, own)
    for name, (datatype, shape, content) in RUNNABLE[model].items():
        set_parameters(request.inputs.add(name=name, datatype=datatype, shape=shape), of_inputs)
        request.raw_input_contents.append(content)
    for number, given_parameters in outputs:
        name = OUTPUTS[model][number % len(OUTPUTS[model])]
        set_parameters(request.outputs.add(name=name), given_parameters)
    assert call(channel, method, request.SerializeToString()) in FINE


@fuzz
@given(model=st.sampled_from(["ensemble", "preprocessing"]), own=parameters, of_inputs=parameters, outputs=wanted)
def test_http_inferences_that_run_with_parameters_of_any_kind(
    http: httpx.Client,
    model: str,
    own: dict[str, Any],
    of_inputs: dict[str, Any],
    outputs: list[tuple[int, dict[str, Any]]],
) -> None:
    inputs = [
        {"name": name, "datatype": kind, "shape": shape, "data": ["def "] if kind == "BYTES" else [1]}
        for name, (kind, shape, _) in RUNNABLE[model].items()
    ]
    content = {
        "parameters": own,
        "inputs": [tensor | {"parameters": of_inputs} for tensor in inputs],
        "outputs": [
            {"name": OUTPUTS[model][number % len(OUTPUTS[model])], "parameters": given_parameters}
            for number, given_parameters in outputs
        ],
    }
    check(http.post(f"/v2/models/{model}/infer", json=content))
