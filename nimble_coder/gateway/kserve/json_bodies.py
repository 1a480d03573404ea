"""KServe's inference bodies over HTTP, JSON and binary tensors, as messages of the gRPC protocol and back.

Formats: KServe's open inference protocol v2; Triton's `extension_binary_data.md` and `extension_generate.md`.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2

from nimble_coder.contract.fields import FINAL
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.kserve.guard import fields_of, flat, parameters_of

DTYPES = {
    "BOOL": np.dtype("?"),
    **{f"{'U' * (kind == 'u')}INT{8 * size}": np.dtype(f"<{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)},
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
Content = Mapping[str, Any]


def read_infer(content: Content, binary: bytes) -> service_pb2.ModelInferRequest:
    """The request of an `infer` body: its JSON, and the binary data behind it; raises `ApiError`."""
    request = service_pb2.ModelInferRequest(id=text_field(content, "id"))
    set_parameters(request.parameters, content.get("parameters"))
    place = 0
    for tensor in tensors_of(content, "inputs"):
        name, datatype, shape = text_field(tensor, "name"), text_field(tensor, "datatype"), tensor.get("shape")
        if not isinstance(shape, list) or not all(is_whole(size) and -(2**63) <= size < 2**63 for size in shape):
            raise invalid(name, f"its shape is {str(shape)[:40]}, and not a list of whole numbers of 64 bits")
        size = parameters_of("input", tensor).get("binary_data_size")
        if size is None:
            raw = pack(name, datatype, flat(tensor.get("data", [])))
        elif is_whole(size) and size >= 0:
            raw, place = binary[place : place + size], place + size
        else:
            raise invalid(name, f"its binary_data_size is {str(size)[:40]}")
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw)
    if place != len(binary):
        text = f"the body has {len(binary)} bytes of binary data, its inputs {place}"
        raise ApiError(400, text, "invalid_input", "inputs")
    for output in tensors_of(content, "outputs") if content.get("outputs") else []:
        parameters_of("output", output)
        request.outputs.add(name=text_field(output, "name"))
    return request


def read_generate(content: Content, config: model_config_pb2.ModelConfig) -> service_pb2.ModelInferRequest:
    """The request of a `generate` body, whose fields are the model's inputs by name, and parameters of the request
    otherwise, as in Triton; raises `ApiError`."""
    fields = fields_of(content)
    request = service_pb2.ModelInferRequest(id=text_field(fields, "id"))
    known = {"id", *(tensor.name for tensor in config.input)}
    set_parameters(request.parameters, {name: value for name, value in fields.items() if name not in known})
    for tensor in config.input:
        value = fields.get(tensor.name)
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        datatype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
        request.inputs.add(name=tensor.name, datatype=datatype, shape=[1, len(values)])
        request.raw_input_contents.append(pack(tensor.name, datatype, values))
    return request


def write_infer(response: service_pb2.ModelInferResponse, content: Content) -> tuple[bytes, int | None]:
    """The body that answers an `infer`, and the length of its JSON where binary data follows it."""
    asked = {output["name"]: output.get("parameters") or {} for output in content.get("outputs") or []}
    by_default = bool((content.get("parameters") or {}).get("binary_data_output"))
    outputs, binary = [], b""
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        shown: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if asked.get(tensor.name, {}).get("binary_data", by_default):
            shown["parameters"] = {"binary_data_size": len(raw)}
            binary += raw
        else:
            shown["data"] = unpack(tensor.datatype, raw)
        outputs.append(shown)
    head = {"id": response.id} if response.id else {}
    named = {**head, "model_name": response.model_name, "model_version": response.model_version}
    body = msgspec.json.encode({**named, "outputs": outputs})
    return body + binary, len(body) if binary else None


def write_generate(response: service_pb2.ModelInferResponse) -> bytes:
    """The body that answers a `generate`, or one event of a stream: an output of one element as that element, another
    one as a list, and the parameters that Triton gives each event of the ensemble."""
    body: dict[str, Any] = {"id": response.id} if response.id else {}
    body |= {"model_name": response.model_name, "model_version": response.model_version}
    for name, parameter in response.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind and name != FINAL:
            body[name] = getattr(parameter, kind)
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        values = unpack(tensor.datatype, raw)
        body[tensor.name] = values[0] if len(values) == 1 else values
    return msgspec.json.encode(body)


def pack(name: str, datatype: str, values: list[Any]) -> bytes:
    """Elements of JSON as a raw tensor, little-endian; raises `ApiError` for what the type does not hold."""
    if datatype == "BYTES":
        if not all(isinstance(value, str) for value in values):
            raise invalid(name, "BYTES holds texts only")
        texts = [value.encode("utf-8", "replace") for value in values]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise invalid(name, f"datatype {datatype[:20]!r} is not known")
    fits = {"b": is_flag, "f": is_number}.get(dtype.kind, is_whole)
    if not all(map(fits, values)) or not within(dtype, values):
        raise invalid(name, f"{datatype} does not hold all of its values")
    return np.array(values, dtype).tobytes()


def within(dtype: np.dtype[Any], values: list[Any]) -> bool:
    """Whether the numbers are not too large for their type."""
    if dtype.kind == "b" or not values:
        return True
    bounds = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return bool(bounds.min <= min(values) and max(values) <= bounds.max)


def unpack(datatype: str, raw: bytes) -> list[Any]:
    """A raw tensor's elements for JSON."""
    if datatype != "BYTES":
        return list(np.frombuffer(raw, DTYPES[datatype]).tolist())
    texts, place = [], 0
    while place < len(raw):
        end = place + 4 + int.from_bytes(raw[place : place + 4], "little")
        texts.append(raw[place + 4 : end].decode("utf-8", "replace"))
        place = end
    return texts


def set_parameters(parameters: Any, given: object) -> None:
    """A request's own parameters; raises `ApiError` for those of a type that the protocol does not have."""
    for name, value in given.items() if isinstance(given, dict) else ():
        if value is None:
            continue
        if isinstance(value, bool):
            parameters[name].bool_param = value
        elif isinstance(value, str):
            parameters[name].string_param = value
        elif is_whole(value) and -(2**63) <= value < 2**63:
            parameters[name].int64_param = value
        elif isinstance(value, float):
            parameters[name].double_param = value
        else:
            text = f"parameter {name[:40]!r} is {str(value)[:40]}: send true or false, a text, or a number of 64 bits"
            raise ApiError(400, text, "invalid_input", name[:40])


def tensors_of(content: Content, field: str) -> list[dict[str, Any]]:
    """A list of tensors; raises `ApiError`."""
    tensors = content.get(field)
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise ApiError(400, f"{field} is not a list of tensors", "invalid_input", field)
    return tensors


def text_field(content: Content, field: str) -> str:
    """A text, empty where it is absent; raises `ApiError` for anything else."""
    value = content.get(field)
    if value is not None and not isinstance(value, str):
        raise ApiError(400, f"{field} is {str(value)[:40]}, and not a text", "invalid_input", field)
    return value or ""


def is_flag(value: object) -> bool:
    """Whether a value of JSON is true or false."""
    return isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether a value of JSON is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number."""
    return isinstance(value, float) or is_whole(value)


def invalid(name: str, reason: str) -> ApiError:
    """The refusal of one tensor."""
    return ApiError(400, f"input {name[:40]!r} cannot be read: {reason}", "invalid_input", "inputs")
