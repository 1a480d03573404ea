"""What the bridge answers where an engine fails in a way that nobody has foreseen."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from nimble_coder.contract.request import Request
from nimble_coder.contract.response import FinishReason, Response
from nimble_coder.triton.bridge import Bridge
from tests.triton.test_sender import Recorder

INPUTS = {
    "input_ids": np.array([[1]], np.int32),
    "input_lengths": np.array([[1]]),
    "request_output_len": np.array([[1]]),
}


class Triton(Recorder):
    """Keeps the errors that are sent, too."""

    def __init__(self) -> None:
        super().__init__()
        self.TritonError = Failure

    def InferenceResponse(self, tensors: Any = None, error: Any = None) -> Any:  # noqa: N802, Triton's name
        return error or tensors


class Failure(SimpleNamespace):
    """Triton's `TritonError`."""

    INTERNAL = 7

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message=message, code=code)


class BrokenEngine:
    """Fails at every request."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    def enqueue(self, request: Request) -> int:
        raise MemoryError(f"no room for {request.input_ids}")

    def responses(self, timeout: float) -> list[Any]:
        self._ended.wait(timeout)
        return []

    def shutdown(self) -> None:
        self._ended.set()


def request_of(triton: Triton, inputs: dict[str, Any]) -> Any:
    """A request as Triton's Python module has it."""
    request = triton.request("output_ids")
    tensors = [SimpleNamespace(name=lambda n=name: n, as_numpy=lambda a=array: a) for name, array in inputs.items()]
    request.inputs, request.parameters, request.request_id = lambda: tensors, lambda: "", lambda: "one"
    request.get_response_sender().is_cancelled = lambda: False
    return request


def test_a_failure_is_the_answer_to_its_own_request_alone() -> None:
    """What `take` raised, Triton would answer to all requests that it hands over together."""
    triton, engine = Triton(), BrokenEngine()
    bridge = Bridge(engine, triton, exclude_input=True, cancel_check_seconds=0.01)  # type: ignore[arg-type]
    bridge.take(request_of(triton, INPUTS))
    bridge.close()
    ((answer, is_last),) = triton.sent
    assert str(answer) == str(Failure("no room for [1]", Failure.INTERNAL))
    assert is_last


class FailingEngine:
    """Fails one row of a batch in the round in which another one has a token."""

    def __init__(self) -> None:
        self.asked, self.cancelled = 0, list[int]()
        self._rounds = [[Response(2, [], error="no room"), Response(1, [5])], [Response(3, [6], FinishReason.LENGTH)]]

    def enqueue(self, _: Request) -> int:
        self.asked += 1
        return self.asked

    def cancel(self, engine_id: int) -> None:
        self.cancelled.append(engine_id)

    def responses(self, timeout: float) -> list[Any]:
        time.sleep(timeout / 10)
        return self._rounds.pop(0) if self._rounds and self.asked == 3 else []

    def shutdown(self) -> None:
        """It has no threads."""


def test_an_error_of_one_row_ends_its_batch() -> None:
    """Clients go at an error; the other rows would run to their ends for nobody."""
    triton, engine = Triton(), FailingEngine()
    bridge = Bridge(engine, triton, exclude_input=True, cancel_check_seconds=0.01)  # type: ignore[arg-type]
    rows = {name: np.repeat(array, 3, axis=0) for name, array in INPUTS.items()}
    bridge.take(request_of(triton, rows))
    deadline = time.monotonic() + 20
    while not triton.sent and time.monotonic() < deadline:
        time.sleep(0.001)
    bridge.close()
    assert [(str(answer), is_last) for answer, is_last in triton.sent] == [
        (str(Failure("no room", Failure.INTERNAL)), 1)
    ]
    assert engine.cancelled == [1, 3]
