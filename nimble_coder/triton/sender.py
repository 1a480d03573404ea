"""Where the responses to one Triton request go.

Written against the interface of Triton's Python backend, which the caller passes in: that module exists only inside
Triton's own process.
"""

from collections.abc import Mapping
from threading import Lock
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


class Sender:
    """A response sender that hands over what was asked for, and nothing else.

    Triton's stub (2.51) frees the tensors that nobody asked for after it has given up Python's lock: it frees arrays
    while other threads allocate them, and Python's heap is corrupt. (Mended in 25.01:
    https://github.com/triton-inference-server/python_backend/pull/390.) So such tensors are never made, and those that
    are made live until `send` has returned.
    """

    def __init__(self, request: Any, pb_utils: Any) -> None:
        self._pb = pb_utils
        self._sender = request.get_response_sender()
        self._lock = Lock()
        self._is_over = False
        self.wanted = frozenset(request.requested_output_names())
        """Names of the outputs that the client asked for: all of the model's where it named none."""

    def send(self, outputs: Mapping[str, Array], is_last: bool = False) -> None:
        """Sends one response. Raises what Triton raises where the client can no longer be reached."""
        tensors = [self._pb.Tensor(name, array) for name, array in outputs.items() if name in self.wanted]
        self._send(is_last, self._pb.InferenceResponse(tensors))

    def fail(self, message: str, code: int, is_last: bool = False) -> None:
        """Sends an error; the code is one of `TritonError`'s."""
        error = self._pb.TritonError(message, code)
        self._send(is_last, self._pb.InferenceResponse(error=error))

    def close(self) -> None:
        """Says that nothing more will come."""
        self._send(True)

    def is_cancelled(self) -> bool:
        """Whether the client has gone before the last response; asks Triton's own process, about 100 us."""
        with self._lock:
            return not self._is_over and bool(self._sender.is_cancelled())

    def _send(self, is_last: bool, *response: Any) -> None:
        """Triton (2.51) crashes where it is asked for a client while that is being answered, or has been."""
        with self._lock:
            self._is_over = is_last
            flags = int(self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL) if is_last else 0
            self._sender.send(*response, flags=flags)
