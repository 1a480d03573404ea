"""Between Triton's request objects and an engine: what the `tensorrtllm` backend does, whichever engine is behind it.

Written against the interface of Triton's Python backend, which the caller passes in: that module exists only inside
Triton's own process.
"""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from nimble_coder.engine.protocol import Engine, FinishReason, QueueFullError, RequestError, Response
from nimble_coder.triton.tensors import Call, is_stop, read_call, write_response

logger = logging.getLogger(__name__)


@dataclass
class Flight:
    """One Triton request on its way: its sender, and which engine requests are still to finish."""

    triton_id: str
    sender: Any
    call: Call
    rows: dict[int, int]
    """Engine request id to row, for those that are not final yet."""


class Bridge:
    """Enqueues Triton requests, sends their responses, and passes cancellations on.

    One thread talks to the senders, because Triton (2.51) crashes where one of them is asked whether it is cancelled
    while or after its last response is sent.
    """

    def __init__(self, engine: Engine, pb_utils: Any, exclude_input: bool, cancel_check_seconds: float) -> None:
        self._engine = engine
        self._pb = pb_utils
        self._exclude_input = exclude_input
        self._cancel_check_seconds = cancel_check_seconds
        self._lock = threading.Lock()
        self._flights: dict[int, Flight] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="bridge", daemon=True)
        self._thread.start()

    def take(self, request: Any) -> None:
        """Starts a Triton request; every outcome, an error too, reaches the client through its sender."""
        sender = request.get_response_sender()
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        try:
            if is_stop(inputs):
                self._stop(request.request_id(), sender)
            else:
                self._start(request.request_id(), sender, read_call(inputs, self._exclude_input))
        except RequestError as error:
            self._refuse(sender, str(error), self._pb.TritonError.INVALID_ARG)
        except QueueFullError as error:
            self._refuse(sender, str(error), self._pb.TritonError.UNAVAILABLE)

    def close(self) -> None:
        """Ends the engine, which answers what is in flight, and the thread."""
        self._engine.shutdown()
        self._stopping.set()
        self._thread.join()

    def _start(self, triton_id: str, sender: Any, call: Call) -> None:
        flight = Flight(triton_id, sender, call, {})
        with self._lock:  # held until all rows are known, so that no response can come before its flight
            try:
                for row, request in enumerate(call.requests):
                    engine_id = self._engine.enqueue(request)
                    flight.rows[engine_id] = row
                    self._flights[engine_id] = flight
            except (RequestError, QueueFullError):
                for engine_id in flight.rows:
                    del self._flights[engine_id]
                    self._engine.cancel(engine_id)
                raise

    def _stop(self, triton_id: str, sender: Any) -> None:
        if not triton_id:
            raise RequestError("Trying to stop a request but request ID is not provided")
        with self._lock:
            stopped = [engine_id for engine_id, flight in self._flights.items() if flight.triton_id == triton_id]
        for engine_id in stopped:
            self._engine.cancel(engine_id)
        sender.send(flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _refuse(self, sender: Any, message: str, code: int) -> None:
        error = self._pb.TritonError(message, code)
        sender.send(self._pb.InferenceResponse(error=error), flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _loop(self) -> None:
        checked = 0.0
        while not self._stopping.is_set():
            for response in self._engine.responses(timeout=self._cancel_check_seconds):
                self._deliver(response)
            if (now := time.monotonic()) - checked >= self._cancel_check_seconds:
                self._cancel_abandoned()
                checked = now

    def _deliver(self, response: Response) -> None:
        with self._lock:
            flight = self._flights.get(response.request_id)
            if flight is None:
                return  # a row of a batch that was refused as a whole
            row = flight.rows[response.request_id]
            if response.is_final:
                del self._flights[response.request_id], flight.rows[response.request_id]
        last = response.is_final and not flight.rows
        try:
            flight.sender.send(
                self._inference_response(flight.call, row, response),
                flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0,
            )
        except Exception:
            # The client is gone in a way that Triton did not report as a cancellation.
            logger.exception("request %s cannot be answered", flight.triton_id)
            self._engine.cancel(response.request_id)

    def _inference_response(self, call: Call, row: int, response: Response) -> Any:
        if response.error:
            return self._pb.InferenceResponse(error=self._pb.TritonError(response.error, self._pb.TritonError.INTERNAL))
        if response.finish_reason is FinishReason.CANCELLED and not response.token_ids:
            error = self._pb.TritonError("the request was cancelled", self._pb.TritonError.CANCELLED)
            return self._pb.InferenceResponse(error=error)
        outputs = write_response(call, row, response)
        return self._pb.InferenceResponse([self._pb.Tensor(name, value) for name, value in outputs.items()])

    def _cancel_abandoned(self) -> None:
        """Cancels what Triton says its client has cancelled."""
        with self._lock:
            flights = list(self._flights.items())
        for engine_id, flight in flights:
            if flight.sender.is_cancelled():
                self._engine.cancel(engine_id)
