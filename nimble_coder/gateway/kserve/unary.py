"""Single inferences on models that stream: what Triton refuses (`ModelInfer`, `infer`, `generate`), from a stream.

It is what people with `tritonclient` or `kserve` try first. The engine is asked for the whole answer at once, over a
stream, since only a stream can be cancelled: Triton's HTTP side runs a generation on whose client has gone.
"""

from contextlib import aclosing
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2, service_pb2

from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.errors import from_triton
from nimble_coder.gateway.kserve.calls import Calls
from nimble_coder.gateway.kserve.guard import KServeGuard
from nimble_coder.gateway.kserve.json_bodies import DTYPES
from nimble_coder.gateway.service import Service

STREAMING = {"tensorrt_llm": "streaming", "tensorrt_llm_bls": "stream", "ensemble": "stream"}
"""The models that stream, and their input that asks for an answer in pieces."""
PLACES = ("batch_index", "sequence_index")
"""The outputs that say which of several answers a response is."""


class UnaryInference:
    """Answers single inferences; the caller has checked who asks, and how often."""

    def __init__(self, service: Service, guard: KServeGuard, calls: Calls) -> None:
        self._service, self._guard, self._calls = service, guard, calls
        repository = service.artifact.repository  # which may go while it is served
        self._texts = {model: (repository / model / "config.pbtxt").read_text(encoding="utf-8") for model in STREAMING}
        self._configs: dict[str, model_config_pb2.ModelConfig] = {}

    def config(self, model: str) -> model_config_pb2.ModelConfig:
        """A model's configuration, as Triton has it."""
        if model not in self._configs:
            self._configs[model] = text_format.Parse(self._texts[model], model_config_pb2.ModelConfig())
        return self._configs[model]

    async def answer(self, request: service_pb2.ModelInferRequest, client: str) -> service_pb2.ModelInferResponse:
        """One response with everything that the model gives; raises `ApiError`. Being cancelled ends the generation."""
        asked_id, wanted = request.id, {output.name for output in request.outputs}
        leave_out(request, STREAMING[request.model_name])
        generations = await aside(request.ByteSize(), self._guard.check_grpc, request, client)
        if wanted and generations > 1:
            for name in PLACES:
                if name not in wanted:
                    request.outputs.add(name=name)
        with self._service.generating(client, generations):
            responses = await self._collect(request)
        whole = (
            merge(responses)
            if responses
            else service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        )
        whole.id = asked_id
        return select(whole, wanted)

    async def _collect(self, request: service_pb2.ModelInferRequest) -> list[service_pb2.ModelInferResponse]:
        responses: list[service_pb2.ModelInferResponse] = []
        async with aclosing(self._calls.responses(request)) as answers:
            async for answer in answers:
                if answer.error_message:
                    raise from_triton(answer.error_message)
                if answer.infer_response.outputs:
                    responses.append(answer.infer_response)
        return responses


def leave_out(request: service_pb2.ModelInferRequest, name: str) -> None:
    """Takes an input out of a request."""
    for index in reversed(range(len(request.inputs))):
        if request.inputs[index].name == name:
            del request.inputs[index]
            if index < len(request.raw_input_contents):
                del request.raw_input_contents[index]


def merge(responses: list[service_pb2.ModelInferResponse]) -> service_pb2.ModelInferResponse:
    """The responses to a batch, or to a request for several sequences, as one: in their order along the first axis.

    Where they are not equally long, 0 fills the shorter ones up; `sequence_length` says how long they are.
    """
    whole = service_pb2.ModelInferResponse(model_name=responses[0].model_name, model_version=responses[0].model_version)
    parts = sorted(map(tensors_of, responses), key=place_of)
    for name, (first, _) in parts[0].items():
        found = [part[name] for part in parts if name in part]
        shapes = [list(tensor.shape) for tensor, _ in found]
        widest = [max(sizes) for sizes in zip(*(shape[1:] for shape in shapes), strict=True)]
        raws = [
            raw if shape[1:] == widest else padded(np.frombuffer(raw, DTYPES[first.datatype]).reshape(shape), widest)
            for (_, raw), shape in zip(found, shapes, strict=True)
        ]
        whole.outputs.add(name=name, datatype=first.datatype, shape=[sum(shape[0] for shape in shapes), *widest])
        whole.raw_output_contents.append(b"".join(raws))
    return whole


def tensors_of(response: service_pb2.ModelInferResponse) -> dict[str, tuple[Any, bytes]]:
    """A response's outputs by name, each with its content."""
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {tensor.name: (tensor, raw) for tensor, raw in pairs}


def place_of(outputs: dict[str, tuple[Any, bytes]]) -> tuple[int, ...]:
    """Which answer of several it is."""
    return tuple(int.from_bytes(outputs[name][1][:4], "little") if name in outputs else 0 for name in PLACES)


def padded(array: NDArray[Any], widest: list[int]) -> bytes:
    """An array's bytes, filled up with zeros behind its first axis."""
    missing = [(0, size - own) for own, size in zip(array.shape[1:], widest, strict=True)]
    return np.pad(array, [(0, 0), *missing]).tobytes()


def select(response: service_pb2.ModelInferResponse, wanted: set[str]) -> service_pb2.ModelInferResponse:
    """Leaves what was asked for, where something was."""
    for number in reversed(range(len(response.outputs))):
        if wanted and response.outputs[number].name not in wanted:
            del response.outputs[number]
            del response.raw_output_contents[number]
    return response
