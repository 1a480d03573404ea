"""Between Triton's request objects and an engine: what the `tensorrtllm` backend does, whichever engine is behind it.

Written against the interface of Triton's Python backend, which the caller passes in: that module exists only inside
Triton's own process.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from nimble_coder.contract.decoding import Call, is_stop, read_call, write_response
from nimble_coder.contract.fields import CALL, OWNER
from nimble_coder.contract.request import QueueFullError, RequestError
from nimble_coder.contract.response import FinishReason, Response
from nimble_coder.engine.protocol import Engine
from nimble_coder.triton.sender import Sender
from nimble_coder.triton.thread_pool import StartedThreadPool

logger = logging.getLogger(__name__)

SENDING_THREADS = 4
"""A response that is sent waits for Triton's own process twice; one thread alone leaves the cores idle meanwhile."""

QUEUE_SECONDS = 0.1
"""For so long a request is held that found the engine's queue full: who has gone is known some milliseconds late."""

LEFT_CALLS = 1024
"""Names that are kept of requests that were ended before they came here, the newest."""

COMPILING_THREADS = 2
"""Forms that are compiled at once, each in up to a second; those that are compiled already wait behind them."""


@dataclass(eq=False)
class Flight:
    """One Triton request on its way: its sender, and which engine requests are still to finish."""

    triton_id: str
    sender: Sender
    call: Call
    rows: dict[int, int]
    """Engine request id to row, for those that are not final yet."""
    is_stopped: bool = False
    """By a request of the same id: it ends with what it has, as if it had reached its end."""


@dataclass(frozen=True)
class Held:
    """A Triton request that the engine has no place for yet."""

    triton_id: str
    sender: Sender
    call: Call
    until: float
    """When it is refused, as `time.monotonic` tells."""


class Bridge:
    """Enqueues Triton requests, sends their responses, and passes cancellations on.

    Several threads send, each for its own share of the requests. Between two rounds one of them asks what is cancelled.
    """

    def __init__(self, engine: Engine, pb_utils: Any, exclude_input: bool, cancel_check_seconds: float) -> None:
        self._engine = engine
        self._pb = pb_utils
        self._exclude_input = exclude_input
        self._cancel_check_seconds = cancel_check_seconds
        self._lock = threading.Lock()
        self._flights: dict[int, Flight] = {}
        self._overflow: list[Held] = []
        """Requests that found the engine's queue full, until it is known who in it has gone."""
        self._left: dict[str, None] = {}
        """Names of requests that the gateway has ended, and that have not come here yet."""
        self._stopping = threading.Event()
        self._helpers = StartedThreadPool(SENDING_THREADS - 1, "bridge-helper")
        self._compilers = StartedThreadPool(COMPILING_THREADS, "bridge-compiler")
        self._thread = threading.Thread(target=self._loop, name="bridge", daemon=True)
        self._thread.start()

    def take(self, request: Any) -> None:
        """Starts a Triton request; every outcome, an error too, reaches the client through its sender."""
        sender = Sender(request, self._pb)
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        with self._refusals(sender):
            parameters = json.loads(request.parameters() or "{}")
            if is_stop(inputs):
                self._stop(request.request_id(), str(parameters.get(CALL, "")), str(parameters.get(OWNER, "")))
                sender.send({}, is_last=True)
                return
            call = read_call(inputs, self._exclude_input, parameters)
            if any(each.guide for each in call.requests):
                self._compilers.submit(self._start_with_forms, request.request_id(), sender, call)
            else:
                self._start_or_wait(request.request_id(), sender, call)

    @contextmanager
    def _refusals(self, sender: Sender) -> Iterator[None]:
        """Tells the client why the block cannot do what it wants, whatever the reason: Triton would end all requests
        that have come with this one, and nobody looks at what a thread raises."""
        try:
            yield
        except RequestError as error:
            self._refuse(sender, error, self._pb.TritonError.INVALID_ARG)
        except QueueFullError as error:
            self._refuse(sender, error, self._pb.TritonError.UNAVAILABLE)
        except Exception as error:
            logger.exception("a request could not be started")
            self._refuse(sender, error, self._pb.TritonError.INTERNAL)

    @staticmethod
    def _refuse(sender: Sender, error: Exception, code: int) -> None:
        try:
            sender.fail(str(error), code, is_last=True)
        except Exception:  # Triton's shared memory may be full; the others go on
            logger.exception("a refusal cannot be sent")

    def _start_with_forms(self, triton_id: str, sender: Sender, call: Call) -> None:
        """Compiles the forms where nobody else waits for it, and starts."""
        with self._refusals(sender):
            for guide in {each.guide for each in call.requests if each.guide}:
                self._engine.prepare(guide)
            self._start_or_wait(triton_id, sender, call)

    def _start_or_wait(self, triton_id: str, sender: Sender, call: Call) -> None:
        """Starts; a full queue is first looked through for those who have gone, and nobody goes ahead of who waits."""
        with suppress(QueueFullError):
            if not self._overflow:
                self._start(triton_id, sender, call)
                return
        with self._lock:
            self._overflow.append(Held(triton_id, sender, call, time.monotonic() + QUEUE_SECONDS))

    def close(self) -> None:
        """Ends the engine, which answers what is in flight, and the threads."""
        self._engine.shutdown()
        self._compilers.shutdown()
        self._stopping.set()
        self._thread.join()
        self._helpers.shutdown()

    def _start(self, triton_id: str, sender: Sender, call: Call) -> None:
        flight = Flight(triton_id, sender, call, {})
        with self._lock:  # held until all rows are known, so that no response can come before its flight
            is_left = call.name in self._left
            if is_left:
                del self._left[call.name]
            else:
                self._enqueue(flight)
        if is_left:
            sender.send({}, is_last=True)

    def _enqueue(self, flight: Flight) -> None:
        try:
            for row, request in enumerate(flight.call.requests):
                engine_id = self._engine.enqueue(request)
                flight.rows[engine_id] = row
                self._flights[engine_id] = flight
        except Exception:
            for engine_id in flight.rows:
                del self._flights[engine_id]
                self._engine.cancel(engine_id)
            raise

    def _stop(self, triton_id: str, name: str, owner: str) -> None:
        """Ends the request that the gateway calls so, also one that is still to come; without a name the newest request
        of that id, as the C++ backend does, and of that owner, where one is told: ids are no secrets. Raises
        `RequestError` where there is neither."""
        if not (triton_id or name):
            raise RequestError("Trying to stop a request but request ID is not provided")

        def is_meant(each: Flight | Held) -> bool:
            if name:
                return each.call.name == name
            owners = ("", each.call.requests[0].owner)
            return each.triton_id == triton_id and owner in owners

        with self._lock:
            held = next(filter(is_meant, reversed(self._overflow)), None)
            flight = next(filter(is_meant, reversed(self._flights.values())), None)
            if held:
                self._overflow.remove(held)
            elif flight:
                flight.is_stopped = True
                stopped = list(flight.rows)
            elif name:
                self._left[name] = None
                if len(self._left) > LEFT_CALLS:
                    del self._left[next(iter(self._left))]
        if held:
            held.sender.send({}, is_last=True)
        elif flight:
            for engine_id in stopped:
                self._engine.cancel(engine_id)

    def _loop(self) -> None:
        checked = 0.0
        while not self._stopping.is_set():
            self._deliver(self._engine.responses(timeout=self._cancel_check_seconds))
            if (now := time.monotonic()) - checked >= self._cancel_check_seconds:
                self._look_through()
                checked = now
        self._deliver(self._engine.responses(timeout=0))
        self._look_through(is_last=True)

    def _look_through(self, is_last: bool = False) -> None:
        """Cancels what nobody wants any more; then those start that found the queue full, or are refused in time."""
        self._cancel_abandoned()
        while held := self._first_held():
            with self._refusals(held.sender):
                if held.sender.is_cancelled():
                    held.sender.fail("the request was cancelled", self._pb.TritonError.CANCELLED, is_last=True)
                    continue
                try:
                    self._start(held.triton_id, held.sender, held.call)
                except QueueFullError:
                    if is_last or time.monotonic() >= held.until:
                        raise
                    with self._lock:
                        self._overflow.insert(0, held)
                    return

    def _first_held(self) -> Held | None:
        with self._lock:
            return self._overflow.pop(0) if self._overflow else None

    def _deliver(self, responses: Sequence[Response]) -> None:
        """Sends the responses of one round. Those of one Triton request stay in one thread, in order."""
        by_flight: dict[Flight, list[Response]] = {}
        with self._lock:
            for response in responses:
                if flight := self._flights.get(response.request_id):  # else a row of a batch refused as a whole
                    by_flight.setdefault(flight, []).append(response)
        queues = list(by_flight.items())
        threads = max(1, min(SENDING_THREADS, len(queues) // 2))
        others = [self._helpers.submit(self._send_all, queues[i::threads]) for i in range(1, threads)]
        self._send_all(queues[::threads])
        for other in others:
            other.result()

    def _send_all(self, queues: Sequence[tuple[Flight, list[Response]]]) -> None:
        for flight, responses in queues:
            for response in responses:
                self._send(flight, response)

    def _send(self, flight: Flight, response: Response) -> None:
        row = flight.rows.get(response.request_id)
        if row is None:
            return  # of a batch that has failed in the same round
        if response.is_final:
            with self._lock:
                del self._flights[response.request_id], flight.rows[response.request_id]
            if response.error:
                self._drop(flight)
        is_last = response.is_final and not flight.rows
        try:
            if response.error:
                flight.sender.fail(response.error, self._pb.TritonError.INTERNAL, is_last)
            elif response.finish_reason is FinishReason.CANCELLED and not (response.token_ids or flight.is_stopped):
                flight.sender.fail("the request was cancelled", self._pb.TritonError.CANCELLED, is_last)
            else:
                flight.sender.send(write_response(flight.call, row, response), is_last)
        except Exception:
            # The client is gone in a way that Triton did not report as a cancellation.
            logger.exception("request %r cannot be answered", flight.triton_id)
            self._engine.cancel(response.request_id)

    def _drop(self, flight: Flight) -> None:
        """Ends what is left of a batch: an error of one row is the answer to all, and its clients go at it."""
        with self._lock:
            left, flight.rows = list(flight.rows), {}
            for engine_id in left:
                del self._flights[engine_id]
        for engine_id in left:
            self._engine.cancel(engine_id)

    def _cancel_abandoned(self) -> None:
        """Cancels what Triton says its client has cancelled."""
        with self._lock:
            flights = list(self._flights.items())
        for engine_id, flight in flights:
            if flight.sender.is_cancelled():
                self._engine.cancel(engine_id)
