"""Whether the engine hangs: it has work, and nothing comes of it. The gateway's liveness goes by this."""

import time

from nimble_coder.gateway.access.limits import Admission
from nimble_coder.gateway.kserve.http_proxy import TritonHttp
from nimble_coder.gateway.upstream.token_stream import TokenStreams

STEPS = b"nv_trt_llm_general_metrics"
"""The metric whose `iteration_counter` both engines count their steps in."""


class HangWatch:
    """Knows since when the service stands still.

    It does where Triton or the engine's process does not answer within the time it is given, and where generations are
    in flight of which neither a token arrives nor a step is counted. A step that never ends, most likely a GPU's,
    leaves the process answering.
    """

    def __init__(self, seconds: float, admission: Admission, streams: TokenStreams, triton: TritonHttp) -> None:
        self._seconds = seconds
        self._admission, self._streams, self._triton = admission, streams, triton
        self._moved = time.monotonic()
        self._tokens, self._steps = 0.0, b""

    async def look(self, answers: bool) -> None:
        """Called all the time; `answers` tells whether Triton and the engine's process did just now."""
        if answers and (not self._admission.own or await self._has_moved()):
            self._moved = time.monotonic()

    @property
    def seconds(self) -> float:
        """For which nothing has moved, where that is long enough to give the service up; 0 otherwise."""
        still = time.monotonic() - self._moved
        return still if still > self._seconds else 0.0

    async def _has_moved(self) -> bool:
        if self._tokens != self._streams.received:
            self._tokens = self._streams.received
            return True
        page = await self._triton.metrics()
        steps = b"".join(line for line in page.splitlines() if line.startswith(STEPS))
        if not steps or steps == self._steps:
            return False
        self._steps = steps
        return True
