"""A stand-in for the engine that emits tokens at a set rate, so that only what is in front of it is measured.

It sits behind the same bridge in the same Triton backend process as the portable engine does.
"""

import heapq
import itertools
import re
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from build_engine.artifact import Artifact
from nimble_coder.contract.request import Guide, Request
from nimble_coder.contract.response import FinishReason, Response
from nimble_coder.engine.drafter import WINDOWED
from nimble_coder.engine.protocol import SOURCES, DraftTotals, Statistics

MODEL = Path(__file__).with_name("stand_in_model.py")


@dataclass
class Stream:
    """A request that is being answered."""

    remaining: int
    due: float
    given: int = 0


class StandInEngine:
    """Implements `nimble_coder.engine.protocol.Engine` without a model.

    Every `interval` seconds each request gets `tokens_per_step` of `token_ids`, in turn.
    """

    def __init__(self, token_ids: list[int], tokens_per_step: int, interval: float) -> None:
        self._token_ids = token_ids
        self._tokens_per_step = tokens_per_step
        self._interval = interval
        self._changed = threading.Condition()
        self._streams: dict[int, Stream] = {}
        self._due: list[tuple[float, int]] = []
        self._ids = itertools.count(1)
        self._tokens = self._steps = 0

    def enqueue(self, request: Request) -> int:
        """See `Engine.enqueue`; the first step is due at once."""
        with self._changed:
            request_id = next(self._ids)
            now = time.monotonic()
            self._streams[request_id] = Stream(request.max_tokens, now)
            heapq.heappush(self._due, (now, request_id))
            self._changed.notify()
        return request_id

    def prepare(self, guide: Guide) -> None:
        """See `Engine.prepare`; what it emits has no form."""

    def responses(self, timeout: float) -> list[Response]:
        """See `Engine.responses`: the steps that are due."""
        with self._changed:
            if not self._due:
                self._changed.wait(timeout)
            elif (early := self._due[0][0] - time.monotonic()) > 0:
                self._changed.wait(min(early, timeout))
            now, found = time.monotonic(), []
            while self._due and self._due[0][0] <= now:
                _, request_id = heapq.heappop(self._due)
                if request_id in self._streams:
                    found.append(self._step(request_id))
            return found

    def _step(self, request_id: int) -> Response:
        stream = self._streams[request_id]
        count = min(self._tokens_per_step, stream.remaining)
        first = stream.given % len(self._token_ids)
        ids = list(itertools.islice(itertools.cycle(self._token_ids), first, first + count))
        stream.given += count
        stream.remaining -= count
        self._tokens += count
        self._steps += 1
        if not stream.remaining:
            del self._streams[request_id]
            return Response(request_id, ids, FinishReason.LENGTH)
        stream.due += self._interval
        heapq.heappush(self._due, (stream.due, request_id))
        return Response(request_id, ids)

    def cancel(self, request_id: int) -> None:
        """See `Engine.cancel`."""
        with self._changed:
            self._streams.pop(request_id, None)

    def statistics(self) -> Statistics:
        """See `Engine.statistics`; a request's first tokens count as a step too, and there is no KV cache."""
        with self._changed:
            return Statistics(
                active_requests=len(self._streams),
                waiting_requests=0,
                max_requests=0,
                kv_tokens_used=0,
                kv_tokens_max=0,
                prompt_tokens=0,
                reused_prompt_tokens=0,
                iterations=self._steps,
                generated_tokens=self._tokens,
                accepted_draft_tokens=self._tokens - self._steps,
                draft_tokens=0,
                request_steps=self._steps,
                step_seconds=0.0,
                drafting={source: DraftTotals() for source in SOURCES},
                usual_drafter=WINDOWED,  # as on a GPU, which the tests have none of
            )

    def shutdown(self) -> None:
        """See `Engine.shutdown`."""
        with self._changed:
            self._streams.clear()


def stand_in_repository(artifact: Artifact, repository: Path) -> None:
    """Copies an artefact's model repository with the stand-in in place of the engine; the text models stay."""
    shutil.copytree(artifact.repository, repository)
    for config in repository.glob("*/config.pbtxt"):  # any number of streams may start at once
        config.write_text(re.sub(r"max_queue_size: \d+", "max_queue_size: 4096", config.read_text()))
    config = repository / "tensorrt_llm" / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "tensorrtllm"', 'backend: "python"'))
    shutil.copyfile(MODEL, repository / "tensorrt_llm" / "1" / "model.py")
