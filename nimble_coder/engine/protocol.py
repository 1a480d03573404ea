"""What every engine does, whatever runs below it: take requests, give tokens, cancel, count, stop.

Shaped after TensorRT-LLM's executor (`tensorrt_llm.bindings.executor`), the second implementation to come.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from build_engine.lookahead import LookaheadConfig


class FinishReason(Enum):
    """Why a generation ended."""

    END_ID = "end_id"
    STOP_WORDS = "stop_words"
    LENGTH = "length"
    CANCELLED = "cancelled"


class RequestError(ValueError):
    """A request that the engine cannot take as it is; the client has to change it."""


class QueueFullError(RuntimeError):
    """The queue is full; the same request may pass later."""

    def __init__(self, limit: int) -> None:
        # TensorRT-LLM's own words, which front ends recognise.
        super().__init__(f"Maximum queue size of {limit} has been reached, please try again later")


@dataclass(frozen=True)
class Request:
    """One prompt to continue, greedily."""

    input_ids: list[int]
    max_tokens: int
    end_id: int | None = None
    """Ends the generation and is not part of the output."""
    stop_words: list[list[int]] = field(default_factory=list)
    """Token sequences that end the generation; the one found is the end of the output."""
    lookahead: LookaheadConfig | None = None
    """(w, n, g) for this request; the engine's own where None."""
    streaming: bool = True
    """Deltas as they come, or one response with everything."""
    seed: int = 0
    """Seeds the window's first tokens: changes the drafts, never the output."""


@dataclass(frozen=True)
class PerfMetrics:
    """What TensorRT-LLM reports under `return_perf_metrics`, with its meaning. Times are in nanoseconds."""

    arrival_time_ns: int
    first_scheduled_time_ns: int
    first_token_time_ns: int
    last_token_time_ns: int
    total_accepted_draft_tokens: int
    """Per step: tokens of the step - 1."""
    total_draft_tokens: int
    """Per step: min(draft tokens, N - 1), the longest path that could have been accepted."""
    kv_cache_alloc_total_blocks: int = 0
    kv_cache_alloc_new_blocks: int = 0
    kv_cache_reused_blocks: int = 0

    @property
    def acceptance_rate(self) -> float:
        return self.total_accepted_draft_tokens / self.total_draft_tokens if self.total_draft_tokens else 0.0


@dataclass(frozen=True)
class Response:
    """Tokens of one request: those since its last response."""

    request_id: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    metrics: PerfMetrics | None = None
    """Present in the final response of a request that was scheduled."""
    error: str | None = None

    @property
    def is_final(self) -> bool:
        return self.finish_reason is not None or self.error is not None


@dataclass(frozen=True)
class Statistics:
    """The engine's state now and its totals since the start."""

    active_requests: int
    waiting_requests: int
    max_requests: int
    kv_tokens_used: int
    kv_tokens_max: int
    iterations: int
    generated_tokens: int
    accepted_draft_tokens: int
    draft_tokens: int
    request_steps: int
    """Decoding steps summed over requests, prefill not counted."""
    step_seconds: float
    """Time spent in steps that decoded."""

    @property
    def tokens_per_step(self) -> float:
        """Tokens per decoding step and request; 1.0 is plain decoding."""
        return 1 + self.accepted_draft_tokens / self.request_steps if self.request_steps else 0.0


class Engine(Protocol):
    """Runs requests concurrently. All methods may be called from any thread."""

    def enqueue(self, request: Request) -> int:
        """Takes a request and returns its id; raises `RequestError` or `QueueFullError`."""

    def responses(self, timeout: float) -> list[Response]:
        """The responses that are there; waits up to `timeout` seconds for the first."""

    def cancel(self, request_id: int) -> None:
        """Ends a request at the next step with a final response; an unknown or finished id does nothing."""

    def statistics(self) -> Statistics:
        """A snapshot."""

    def shutdown(self) -> None:
        """Ends every request with a final response and releases the device."""
