"""What runs as the Triton model `tensorrt_llm_bls`: it asks the other models for a text, and ends the engine's request
when its own client has gone.

Triton's Python backend may stand still with all of its requests where several run at once (docs/triton-workarounds.md),
so the gateway answers its clients' requests to this model by itself. Written against the interface of that backend,
which the caller passes in.
"""

import json
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from nimble_coder.contract.fields import CALL
from nimble_coder.triton.leaving import Leaving
from nimble_coder.triton.sender import Sender
from nimble_coder.triton.text_generation import HANDED_ON, PREPARED, TextGeneration

Array = NDArray[Any]

ONE = np.ones((1, 1), np.int32)
KEPT_SECONDS = 1.0
"""For so long the responses to a request are kept that has been answered."""


class Calls:
    """The other models, as functions on arrays; raises what `pb_utils` raises for their errors."""

    def __init__(self, pb_utils: Any, engine: str) -> None:
        self._pb = pb_utils
        self._engine = engine
        self._kept: deque[tuple[float, Any]] = deque()
        self.leaving = Leaving()

    def prepare(self, question: dict[str, Array]) -> dict[str, Array]:
        """`preprocessing`: the engine's inputs that depend on the text."""
        return self._call("preprocessing", question, list(PREPARED))

    def decode(self, ids: list[int]) -> str:
        """`postprocessing`: the text of token ids."""
        batch = {"TOKENS_BATCH": np.array([[ids]], np.int32), "SEQUENCE_LENGTH": np.array([[len(ids)]], np.int32)}
        text: bytes = self._call("postprocessing", batch, ["OUTPUT"])["OUTPUT"].reshape(-1)[0]
        return text.decode()

    def generate(
        self, inputs: dict[str, Array], request_id: str, outputs: list[str], parameters: dict[str, Any]
    ) -> Generator[dict[str, Array], None, None]:
        """The engine's responses as they come. Who leaves early ends the request."""
        yield from self._stream(self._request(self._engine, inputs, outputs, request_id, parameters), request_id)

    def stop(self, request_id: str) -> None:
        """Ends the engine's request of that id."""
        inputs = {"stop": np.array([[True]]), "input_ids": ONE, "input_lengths": ONE, "request_output_len": ONE}
        for _ in self._stream(self._request(self._engine, inputs, ["output_ids"], request_id)):
            pass

    def _stream(self, request: Any, stopped_by: str = "") -> Iterator[dict[str, Array]]:
        """Responses, read to the last: Triton (2.51) never forgets a request of which some are left.

        They are kept a moment longer: its stub forgets them, too, in a thread without Python's lock, and frees the
        arrays there if nobody else has them, which corrupts Python's heap.
        """
        responses = request.exec(decoupled=True)
        try:
            for response in responses:
                yield self._arrays(response)
            stopped_by = ""
        finally:
            if stopped_by:
                self.stop(stopped_by)
            for _ in responses:
                pass
            now = time.monotonic()
            self._kept.append((now, responses))
            while self._kept and self._kept[0][0] < now - KEPT_SECONDS:
                self._kept.popleft()

    def _call(self, model: str, inputs: dict[str, Array], outputs: list[str]) -> dict[str, Array]:
        return self._arrays(self._request(model, inputs, outputs, "").exec())

    def _request(
        self,
        model: str,
        inputs: dict[str, Array],
        outputs: list[str],
        request_id: str,
        parameters: dict[str, Any] | None = None,
    ) -> Any:
        tensors = [self._pb.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()]
        return self._pb.InferenceRequest(
            model_name=model,
            inputs=tensors,
            requested_output_names=outputs,
            request_id=request_id,
            parameters=parameters or {},
        )

    def _arrays(self, response: Any) -> dict[str, Array]:
        if response.has_error():
            raise self._pb.TritonModelException(response.error().message())
        return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


class TextRequest:
    """One request of a client: a prompt as text."""

    def __init__(self, request: Any, pb_utils: Any, calls: Calls, accumulate: bool) -> None:
        self._pb = pb_utils
        self._calls = calls
        self._accumulate = accumulate
        self._inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        given = json.loads(request.parameters() or "{}")
        self._parameters = {name: given[name] for name in HANDED_ON if name in given}
        self._sender = Sender(request, pb_utils)

    def run(self) -> None:
        """Answers the request, whatever happens.

        An error is the last response: a client that leaves at it would meet Triton (2.51) between the two.
        """
        try:
            text = TextGeneration(
                self._inputs, self._parameters, self._sender.wanted, self._calls.decode, self._accumulate
            )
            request_id = str(self._parameters.get(CALL) or uuid4().hex)
            with self._calls.leaving.watch(self._sender, partial(self._calls.stop, request_id)):
                if not self._sender.is_cancelled():  # it may have waited for its turn
                    self._generate(text, request_id)
        except ValueError as error:
            self._sender.fail(str(error), self._pb.TritonError.INVALID_ARG, is_last=True)
        except Exception as error:
            # Most often another model's error, or one that keeps this one from being called.
            self._sender.fail(str(error), self._pb.TritonError.INTERNAL, is_last=True)
        else:
            self._sender.close()

    def _generate(self, text: TextGeneration, request_id: str) -> None:
        inputs = text.engine_inputs(self._calls.prepare(text.question))
        parameters = {name: as_parameter(value) for name, value in self._parameters.items()}
        with closing(self._calls.generate(inputs, request_id, text.engine_outputs, parameters)) as answers:
            for answer in answers:
                for outputs in text.take(answer):
                    self._sender.send(outputs)
                if text.is_over:
                    break
        for outputs in text.finish():
            self._sender.send(outputs)


def as_parameter(value: object) -> object:
    """A request parameter as one model may send it to another: Triton (2.51) takes no fractions from a Python model."""
    return str(value) if isinstance(value, float) else value
