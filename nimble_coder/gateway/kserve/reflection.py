"""gRPC's reflection, with which grpcurl and its like learn what can be called; without a package of its own.

Protocol: grpc/reflection/v1/reflection.proto and v1alpha's, which has the same messages; grpc/health/v1/health.proto.
"""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2, service_pb2

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.kserve.slots import write

METHODS = tuple(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha"))
SERVICES = ("grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "inference.GRPCInferenceService")
HEALTH = """
name: "grpc/health/v1/health.proto" package: "grpc.health.v1" syntax: "proto3"
message_type { name: "HealthCheckRequest" field { name: "service" number: 1 type: TYPE_STRING } }
message_type {
  name: "HealthCheckResponse"
  field { name: "status" number: 1 type: TYPE_ENUM type_name: ".grpc.health.v1.HealthCheckResponse.ServingStatus" }
  enum_type {
    name: "ServingStatus"
    value { name: "UNKNOWN" number: 0 } value { name: "SERVING" number: 1 } value { name: "NOT_SERVING" number: 2 }
    value { name: "SERVICE_UNKNOWN" number: 3 }
  }
}
service {
  name: "Health"
  method {
    name: "Check"
    input_type: ".grpc.health.v1.HealthCheckRequest" output_type: ".grpc.health.v1.HealthCheckResponse"
  }
}
"""
REFLECTION = """
name: "grpc/reflection/v1/reflection.proto" package: "grpc.reflection.v1" syntax: "proto3"
message_type {
  name: "ServerReflectionRequest"
  oneof_decl { name: "message_request" }
  field { name: "host" number: 1 type: TYPE_STRING }
  field { name: "file_by_filename" number: 3 type: TYPE_STRING oneof_index: 0 }
  field { name: "file_containing_symbol" number: 4 type: TYPE_STRING oneof_index: 0 }
  field {
    name: "file_containing_extension" number: 5 oneof_index: 0
    type: TYPE_MESSAGE type_name: ".grpc.reflection.v1.ExtensionRequest"
  }
  field { name: "all_extension_numbers_of_type" number: 6 type: TYPE_STRING oneof_index: 0 }
  field { name: "list_services" number: 7 type: TYPE_STRING oneof_index: 0 }
}
message_type {
  name: "ExtensionRequest"
  field { name: "containing_type" number: 1 type: TYPE_STRING }
  field { name: "extension_number" number: 2 type: TYPE_INT32 }
}
message_type {
  name: "ServerReflectionResponse"
  oneof_decl { name: "message_response" }
  field { name: "valid_host" number: 1 type: TYPE_STRING }
  field {
    name: "original_request" number: 2
    type: TYPE_MESSAGE type_name: ".grpc.reflection.v1.ServerReflectionRequest"
  }
  field {
    name: "file_descriptor_response" number: 4 oneof_index: 0
    type: TYPE_MESSAGE type_name: ".grpc.reflection.v1.FileDescriptorResponse"
  }
  field {
    name: "all_extension_numbers_response" number: 5 oneof_index: 0
    type: TYPE_MESSAGE type_name: ".grpc.reflection.v1.ExtensionNumberResponse"
  }
  field {
    name: "list_services_response" number: 6 oneof_index: 0
    type: TYPE_MESSAGE type_name: ".grpc.reflection.v1.ListServiceResponse"
  }
  field {
    name: "error_response" number: 7 oneof_index: 0 type: TYPE_MESSAGE type_name: ".grpc.reflection.v1.ErrorResponse"
  }
}
message_type {
  name: "FileDescriptorResponse"
  field { name: "file_descriptor_proto" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
}
message_type {
  name: "ExtensionNumberResponse"
  field { name: "base_type_name" number: 1 type: TYPE_STRING }
  field { name: "extension_number" number: 2 label: LABEL_REPEATED type: TYPE_INT32 }
}
message_type {
  name: "ListServiceResponse"
  field {
    name: "service" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".grpc.reflection.v1.ServiceResponse"
  }
}
message_type { name: "ServiceResponse" field { name: "name" number: 1 type: TYPE_STRING } }
message_type {
  name: "ErrorResponse"
  field { name: "error_code" number: 1 type: TYPE_INT32 } field { name: "error_message" number: 2 type: TYPE_STRING }
}
service {
  name: "ServerReflection"
  method {
    name: "ServerReflectionInfo" client_streaming: true server_streaming: true
    input_type: ".grpc.reflection.v1.ServerReflectionRequest"
    output_type: ".grpc.reflection.v1.ServerReflectionResponse"
  }
}
"""


def described() -> descriptor_pool.DescriptorPool:
    """What can be called, with all that it is made of."""
    pool = descriptor_pool.DescriptorPool()
    for file in (model_config_pb2.DESCRIPTOR, service_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    for text in (HEALTH, REFLECTION):
        pool.Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
    return pool


class Reflection:
    """The reflection service; the caller has checked who asks."""

    def __init__(self) -> None:
        self._pool = described()
        package = "grpc.reflection.v1"
        self._request, self._response = (
            message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{package}.ServerReflection{kind}"))
            for kind in ("Request", "Response")
        )

    async def answer_all(self, messages: AsyncIterator[bytes], context: Any) -> None:
        """Answers a call, raw bytes on both sides; raises `ApiError`."""
        async for message in messages:
            await write(context, self.answer(message))

    def answer(self, message: bytes) -> bytes:
        """The answer to one question; raises `ApiError` for bytes that are none."""
        try:
            request = self._request.FromString(message)
        except DecodeError:
            raise ApiError(400, "the message is not a ServerReflectionRequest", "invalid_message") from None
        response = self._response(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        try:
            if asked == "list_services":
                for name in SERVICES:
                    response.list_services_response.service.add(name=name)
            elif asked == "file_by_filename":
                self._add_files(response, self._pool.FindFileByName(request.file_by_filename))
            elif asked == "file_containing_symbol":
                self._add_files(response, self._file_of(request.file_containing_symbol))
            elif asked == "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                self._pool.FindMessageTypeByName(name)
                response.all_extension_numbers_response.base_type_name = name  # proto3 has no extensions
            else:
                raise KeyError(asked)
        except KeyError:
            response.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
            response.error_response.error_message = "there is no such thing here"
        encoded: bytes = response.SerializeToString()
        return encoded

    def _file_of(self, symbol: str) -> Any:
        """The file of a symbol; protobuf's own search knows no methods. Raises `KeyError`."""
        service, _, method = symbol.rpartition(".")
        if service in SERVICES:
            return self._pool.FindServiceByName(service).methods_by_name[method].containing_service.file
        return self._pool.FindFileContainingSymbol(symbol)

    def _add_files(self, response: Any, file: Any) -> None:
        """A file and all that it imports, itself first."""
        files = [file]
        for each in files:
            files += [other for other in each.dependencies if other not in files]
        response.file_descriptor_response.file_descriptor_proto.extend(each.serialized_pb for each in files)
