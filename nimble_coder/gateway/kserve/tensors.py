"""A KServe request's tensors as arrays, and an answer's, held to a model's configuration as Triton holds them.

For the model that the gateway answers by itself. The refusals say what Triton's say (core/src/infer_request.cc).
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2, service_pb2

from nimble_coder.gateway.kserve.json_bodies import DTYPES

Array = NDArray[Any]
VERSION = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]{1,4000})")
"""The number that Triton reads of a version: C++'s `stol` does, which passes over what follows."""
OWN_VERSION, LARGEST_VERSION = 1, 2**63 - 1
TYPED = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where a tensor of a type is that does not come raw."""


def read_inputs(request: service_pb2.ModelInferRequest, config: model_config_pb2.ModelConfig) -> dict[str, Array]:
    """The inputs by name, `[B, *dims]`, or what the model's `reshape` makes of that; raises `ValueError`."""
    check_version(request.model_version, config.name)
    known = {tensor.name: tensor for tensor in config.input}
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise ValueError(f"expected number of inputs: {len(request.inputs)} are named, {len(raw)} have content")
    found: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        name = tensor.name
        if name not in known:
            raise ValueError(f"unexpected inference input {name[:40]!r} for model {config.name!r}")
        if name in found:
            raise ValueError(f"input {name!r} already exists in request")
        check(tensor, known[name], config)
        check_content(tensor, is_raw=bool(raw))
        array = read_raw(tensor, raw[index]) if raw else read_typed(tensor)
        is_reshaped = known[name].HasField("reshape")
        found[name] = array.reshape([array.shape[0], *known[name].reshape.shape]) if is_reshaped else array
    if missing := next((name for name, each in known.items() if name not in found and not each.optional), None):
        raise ValueError(f"expected number of inputs: {missing} is missing, send it")
    if len({array.shape[0] for array in found.values()}) > 1:
        raise ValueError("the batch size does not match: batch-size does not match between the inputs")
    return found


def check_version(version: str, model: str) -> None:
    """Raises `ValueError` for a version that is none, or not the model's; without one, the model's own is meant."""
    found = VERSION.match(version)
    number = int(found[1]) if found else -1
    if version and not 0 <= number <= LARGEST_VERSION:
        raise ValueError(f"invalid model version specified {version[:40]!r}: versions are whole numbers above 0")
    if version and number != OWN_VERSION:
        raise ValueError(f"unknown model: {model!r} has no version {number}")


def check(tensor: Any, known: model_config_pb2.ModelInput, config: model_config_pb2.ModelConfig) -> None:
    """Raises `ValueError` for a type or shape that is not the model's."""
    datatype = model_config_pb2.DataType.Name(known.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
    if tensor.datatype != datatype:
        text = f"input {known.name!r} data-type is {tensor.datatype[:20]!r}, model {config.name!r} expects {datatype!r}"
        raise ValueError(f"inference {text}")
    shape, dims = list(tensor.shape), list(known.dims)
    fits = len(shape) == len(dims) + 1 and all(
        size >= 0 and dim in (-1, size) for size, dim in zip(shape[1:], dims, strict=True)
    )
    if not fits:
        text = f"unexpected shape for input {known.name!r} for model {config.name!r}"
        raise ValueError(f"{text}: expected {[-1, *dims]}, got {shape[:9]}")
    if not 1 <= shape[0] <= config.max_batch_size:
        raise ValueError(f"batch-size must be from 1 to {config.max_batch_size} for {config.name!r}: it is {shape[0]}")


def check_content(tensor: Any, is_raw: bool) -> None:
    """Raises `ValueError` for elements that would not be read: beside raw ones, or of another type."""
    given = [field.name for field, _ in tensor.contents.ListFields()]
    if given and is_raw:
        raise ValueError(f"contents must not be specified when using raw_input_contents: {tensor.name!r} has some")
    if other := next((name for name in given if name != TYPED.get(tensor.datatype)), None):
        text = f"unexpected explicit tensor data for input tensor {tensor.name!r}: its type is {tensor.datatype}"
        raise ValueError(f"{text}, and it has {other}")


def read_raw(tensor: Any, content: bytes) -> Array:
    """A raw tensor, little-endian; raises `ValueError` where its content is not as long as its shape says."""
    shape, count = list(tensor.shape), elements(tensor)
    if tensor.datatype != "BYTES":
        dtype = DTYPES[tensor.datatype]
        if len(content) != count * dtype.itemsize:
            text = f"unexpected total byte size {len(content)} for input {tensor.name!r}"
            raise ValueError(f"{text}: expecting {count * dtype.itemsize}")
        return np.frombuffer(content, dtype).reshape(shape)
    texts, place = list[bytes](), 0
    while place + 4 <= len(content) and len(texts) < count:
        end = place + 4 + int.from_bytes(content[place : place + 4], "little")
        texts.append(content[place + 4 : end])
        place = end
    if len(texts) != count or place != len(content):
        raise ValueError(f"string elements for inference input {tensor.name!r} are not {count}, as its shape says")
    return of_texts(texts, shape)


def read_typed(tensor: Any) -> Array:
    """A tensor of typed elements; raises `ValueError` where they are not as many as its shape says."""
    values = list(getattr(tensor.contents, TYPED.get(tensor.datatype, ""), ()))
    if len(values) != elements(tensor):
        text = f"unexpected total byte size for input {tensor.name!r}: its shape says {elements(tensor)} elements"
        raise ValueError(f"{text}, it has {len(values)} of its type")
    if tensor.datatype == "BYTES":
        return of_texts(values, list(tensor.shape))
    return np.array(values, DTYPES[tensor.datatype]).reshape(list(tensor.shape))


def elements(tensor: Any) -> int:
    """How many a tensor of this shape has."""
    count = 1
    for size in tensor.shape:
        count *= size
    return count


def of_texts(texts: list[bytes], shape: list[int]) -> Array:
    """An array of texts, as Triton's Python models have them."""
    array = np.empty(len(texts), np.object_)
    array[:] = texts
    return array.reshape(shape)


def read_outputs(response: service_pb2.ModelInferResponse) -> dict[str, Array]:
    """The outputs of an answer by name."""
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {tensor.name: read_raw(tensor, content) for tensor, content in pairs}


def add_inputs(request: service_pb2.ModelInferRequest, arrays: Mapping[str, Array]) -> None:
    """Gives a request its inputs."""
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        request.raw_input_contents.append(written(array))


def add_outputs(response: service_pb2.ModelInferResponse, arrays: Mapping[str, Array]) -> None:
    """Gives an answer its outputs."""
    for name, array in arrays.items():
        response.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        response.raw_output_contents.append(written(array))


def datatype_of(array: Array) -> str:
    """An array's type, by KServe's name for it."""
    return next((name for name, dtype in DTYPES.items() if dtype == array.dtype), "BYTES")


def written(array: Array) -> bytes:
    """An array as a raw tensor."""
    if array.dtype != np.object_:
        return array.tobytes()
    return b"".join(len(text).to_bytes(4, "little") + text for text in array.reshape(-1).tolist())
