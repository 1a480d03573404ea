"""gRPC's reflection says what can be called, so that grpcurl needs no files of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tritonclient.grpc import service_pb2

from build_engine.artifact import Artifact
from nimble_coder.gateway.kserve.reflection import METHODS, SERVICES, Reflection, described
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.triton import Addresses

POOL = described()
REQUEST, RESPONSE = (
    message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"grpc.reflection.v1.ServerReflection{kind}"))
    for kind in ("Request", "Response")
)


def ask(address: str, method: str, metadata: Any = (), **questions: str) -> list[Any]:
    """The answers to questions on one stream."""
    messages = [REQUEST(**{name: value}).SerializeToString() for name, value in questions.items()]
    with grpc.insecure_channel(address) as channel:
        answers = channel.stream_stream(method)(iter(messages), metadata=metadata)
        return [RESPONSE.FromString(answer) for answer in answers]


@pytest.mark.parametrize("method", METHODS)
def test_the_services_are_listed_and_described_down_to_a_call(gateway: Serving, method: str) -> None:
    """What grpcurl does: list, describe, and call with nothing but what it was told."""
    listed, described = ask(
        gateway.addresses.grpc, method, list_services="*", file_containing_symbol="inference.GRPCInferenceService"
    )
    assert [service.name for service in listed.list_services_response.service] == list(SERVICES)
    pool = descriptor_pool.DescriptorPool()
    for content in reversed(described.file_descriptor_response.file_descriptor_proto):
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(content))
    call = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name["ServerReady"]
    kinds = [message_factory.GetMessageClass(kind) for kind in (call.input_type, call.output_type)]
    with grpc.insecure_channel(gateway.addresses.grpc) as channel:
        name = f"/{call.containing_service.full_name}/{call.name}"
        answer = channel.unary_unary(name)(kinds[0]().SerializeToString())
    assert kinds[1].FromString(answer).ready


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_that_is_listed_is_described(gateway: Serving, service: str) -> None:
    (answer,) = ask(gateway.addresses.grpc, METHODS[0], file_containing_symbol=service)
    assert answer.original_request.file_containing_symbol == service
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(content)
        for content in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert service in {f"{files[0].package}.{each.name}" for each in files[0].service}


def test_files_symbols_and_extensions_are_found_by_name() -> None:
    reflection = Reflection()

    def answer(**question: Any) -> Any:
        return RESPONSE.FromString(reflection.answer(REQUEST(**question).SerializeToString()))

    name = service_pb2.DESCRIPTOR.name
    assert len(answer(file_by_filename=name).file_descriptor_response.file_descriptor_proto) == 2
    method = "inference.GRPCInferenceService.ModelInfer"
    assert answer(file_containing_symbol=method).file_descriptor_response.file_descriptor_proto
    message = "inference.ModelInferRequest"
    assert answer(all_extension_numbers_of_type=message).all_extension_numbers_response.base_type_name == message
    for nothing in (
        {"file_by_filename": "x.proto"},
        {"file_containing_symbol": "x.Y"},
        {"file_containing_symbol": "inference.GRPCInferenceService.Nothing"},
        {"all_extension_numbers_of_type": "x.Y"},
        {"file_containing_extension": {"containing_type": message, "extension_number": 1}},
        {},
    ):
        assert answer(**nothing).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.fixture(scope="module")
def keyed(artifact: Artifact, gateway: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gRPC address of a gateway that wants a key."""
    log: Path = tmp_path_factory.mktemp("keyed") / "log"
    addresses, settings = Addresses.free(), {"NIMBLE_API_KEYS": "secret"}
    with GatewayProcesses(artifact.directory, gateway.triton.addresses, addresses, log=log, settings=settings) as g:
        g.wait_ready()
        yield addresses.grpc


def test_a_key_is_needed_where_the_service_wants_one(keyed: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(keyed, METHODS[0], list_services="*")
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    (answer,) = ask(keyed, METHODS[0], (("authorization", "Bearer secret"),), list_services="*")
    assert answer.list_services_response.service


def test_bytes_that_are_no_question_are_refused(gateway: Serving) -> None:
    with grpc.insecure_channel(gateway.addresses.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(METHODS[0])(iter([b"\xff" * 9])))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
