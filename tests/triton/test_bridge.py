"""What the bridge answers where an engine fails in a way that nobody has foreseen."""

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np

from nimble_coder.contract.request import Request
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


def test_a_failure_is_the_answer_to_its_own_request_alone() -> None:
    """What `take` raised, Triton would answer to all requests that it hands over together."""
    triton, engine = Triton(), BrokenEngine()
    bridge = Bridge(engine, triton, exclude_input=True, cancel_check_seconds=0.01)  # type: ignore[arg-type]
    request = triton.request("output_ids")
    tensors = [SimpleNamespace(name=lambda n=name: n, as_numpy=lambda a=array: a) for name, array in INPUTS.items()]
    request.inputs, request.parameters, request.request_id = lambda: tensors, lambda: "", lambda: "one"
    bridge.take(request)
    bridge.close()
    ((answer, is_last),) = triton.sent
    assert str(answer) == str(Failure("no room for [1]", Failure.INTERNAL))
    assert is_last
