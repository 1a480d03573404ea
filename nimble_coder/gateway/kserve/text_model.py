"""The model `tensorrt_llm_bls` for the gateway's clients: text in, text out, with the engine behind it asked from here.

In Triton this model asks the others by `exec(decoupled=True)`. Several such requests at once can stand still for ever,
in every version of Triton's Python backend (docs/triton-workarounds.md), and everybody's with them.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2, service_pb2

from build_engine.artifact import ENGINE_MODEL
from nimble_coder.contract.fields import FINAL
from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.kserve.tensors import add_inputs, add_outputs, read_inputs, read_outputs
from nimble_coder.gateway.service import Service
from nimble_coder.triton.text_generation import HANDED_ON, TextGeneration
from nimble_coder.triton.text_models import preprocess

Array = NDArray[Any]
Answers = AsyncGenerator[service_pb2.ModelStreamInferResponse, None]
Ask = Callable[[service_pb2.ModelInferRequest], Answers]
TEXT_MODEL = "tensorrt_llm_bls"


class TextModel:
    """Answers requests as Triton does; the caller has checked who asks, and what."""

    def __init__(self, service: Service, ask: Ask) -> None:
        """`ask` asks another model."""
        self._tokenizer, self._ask = service.tokenizer, ask
        path = service.artifact.repository / TEXT_MODEL / "config.pbtxt"
        self._text = path.read_text(encoding="utf-8")  # the repository may go while it is served
        self._config: model_config_pb2.ModelConfig | None = None

    @property
    def config(self) -> model_config_pb2.ModelConfig:
        """As Triton has it."""
        if self._config is None:
            self._config = text_format.Parse(self._text, model_config_pb2.ModelConfig())
        return self._config

    async def responses(self, request: service_pb2.ModelInferRequest) -> Answers:
        """Yields what the model answers, marked where it is final; an error is the last. Leaving early ends the
        generation. Raises `ApiError` where Triton does not answer."""
        try:
            text, asked = await aside(request.ByteSize(), self._begin, request)
        except ValueError as error:
            yield self._answer(request, error=str(error))
            return
        async with aclosing(self._ask(asked)) as answers:
            async for answer in answers:
                if answer.error_message:
                    yield self._answer(request, error=answer.error_message)
                    return
                if answer.infer_response.outputs:
                    for outputs in text.take(read_outputs(answer.infer_response)):
                        yield self._answer(request, outputs)
                if text.is_over:
                    break
        for outputs in text.finish():
            yield self._answer(request, outputs)
        yield self._answer(request, is_final=True)

    def _begin(self, request: service_pb2.ModelInferRequest) -> tuple[TextGeneration, service_pb2.ModelInferRequest]:
        """The text to come, and what the engine is asked for it; raises `ValueError`."""
        wanted = self._wanted(request)
        parameters = {name: value_of(request.parameters[name]) for name in HANDED_ON if name in request.parameters}
        text = TextGeneration(read_inputs(request, self.config), parameters, wanted, self._decode, self._accumulates)
        # Without the client's id: its own `stop` reaches no request to this model, as in Triton.
        asked = service_pb2.ModelInferRequest(model_name=ENGINE_MODEL)
        for name in request.parameters:  # also those that only Triton looks at, and refuses
            asked.parameters[name].CopyFrom(request.parameters[name])
        add_inputs(asked, text.engine_inputs(preprocess(self._tokenizer, text.question)))
        for name in text.engine_outputs:
            asked.outputs.add(name=name)
        return text, asked

    def _wanted(self, request: service_pb2.ModelInferRequest) -> frozenset[str]:
        """The outputs that are asked for: all where none is named; raises `ValueError`."""
        known = [output.name for output in self.config.output]
        if unknown := next((each.name for each in request.outputs if each.name not in known), None):
            raise ValueError(f"unexpected inference output {unknown[:40]!r} for model {TEXT_MODEL!r}")
        return frozenset([each.name for each in request.outputs] or known)

    @property
    def _accumulates(self) -> bool:
        """Whether each response is to hold the whole text so far."""
        return str(self.config.parameters["accumulate_tokens"].string_value).lower() == "true"

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)

    def _answer(
        self,
        request: service_pb2.ModelInferRequest,
        outputs: Mapping[str, Array] | None = None,
        error: str = "",
        is_final: bool = False,
    ) -> service_pb2.ModelStreamInferResponse:
        answer = service_pb2.ModelStreamInferResponse(error_message=error)
        response = answer.infer_response
        response.id = request.id
        response.model_name, response.model_version = TEXT_MODEL, "1"
        if outputs:
            add_outputs(response, outputs)
        response.parameters[FINAL].bool_param = is_final or bool(error)
        return answer


def value_of(parameter: Any) -> object:
    """A request parameter's value."""
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None
