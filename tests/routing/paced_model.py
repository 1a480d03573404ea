"""An engine that sleeps in place of computing, as a Triton model: what a pod with a GPU of its own does, on a machine
that has none. A step takes longer the more requests it is for, and a prompt takes some steps before its first token.
"""

import queue
import threading
import time

from nimble_coder.bench import stand_in_model
from nimble_coder.bench.stand_in import StandInEngine
from nimble_coder.contract.request import Request
from nimble_coder.contract.response import Response

STEP, EACH = 0.020, 0.005
"""Seconds of a step, and what each request adds."""
PROMPT_STEPS = 5


class PacedEngine(StandInEngine):
    """One step for all requests that are there, then the next."""

    def __init__(self, token_ids: list[int]) -> None:
        super().__init__(token_ids, tokens_per_step=1, interval=0.0)
        self._prompts: dict[int, int] = {}
        self._ready: queue.SimpleQueue[Response] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def enqueue(self, request: Request) -> int:
        """See `Engine.enqueue`."""
        request_id = super().enqueue(request)
        with self._changed:
            self._prompts[request_id] = PROMPT_STEPS
        return request_id

    def responses(self, timeout: float) -> list[Response]:
        """See `Engine.responses`."""
        try:
            return [self._ready.get(timeout=timeout)]
        except queue.Empty:
            return []

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._streams:
                    self._changed.wait()
                running = list(self._streams)
            time.sleep(STEP + EACH * len(running))
            with self._changed:
                for request_id in running:
                    self._advance(request_id)

    def _advance(self, request_id: int) -> None:
        left = self._prompts.get(request_id, 0)
        if request_id not in self._streams:
            self._prompts.pop(request_id, None)
        elif left > 1:
            self._prompts[request_id] = left - 1
        else:
            response = self._step(request_id)
            if response.is_final:
                self._prompts.pop(request_id, None)
            self._ready.put(response)


class TritonPythonModel(stand_in_model.TritonPythonModel):
    """The benchmark's stand-in with this engine."""

    def engine(self, token_ids: list[int]) -> StandInEngine:
        """See the base."""
        return PacedEngine(token_ids)
