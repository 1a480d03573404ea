"""What every engine does, whatever runs below it: take requests, give tokens, cancel, count, stop.

Shaped after TensorRT-LLM's executor (`tensorrt_llm.bindings.executor`), the second implementation to come.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from nimble_coder.contract.request import Guide, Request
from nimble_coder.contract.response import Response

SOURCES = ("lookahead", "text", "pool", "followers", "form")
"""Where drafts come from: lookahead's window and n-grams, the request's own text, earlier requests of its pool, texts
at large where neither says anything, and the form that it is held to."""


@dataclass
class DraftTotals:
    """What the drafts of one source brought, in the steps of requests that had some."""

    steps: int = 0
    drafted: int = 0
    """Draft tokens, a row of the step each."""
    accepted: int = 0
    seconds: float = 0.0
    """The steps' time, of which each request has its share of the rows."""


@dataclass(frozen=True)
class Statistics:
    """The engine's state now and its totals since the start."""

    active_requests: int
    waiting_requests: int
    max_requests: int
    kv_tokens_used: int
    kv_tokens_max: int
    prompt_tokens: int
    reused_prompt_tokens: int
    """Prompt tokens whose KV entries were there already."""
    iterations: int
    generated_tokens: int
    accepted_draft_tokens: int
    draft_tokens: int
    request_steps: int
    """Decoding steps summed over requests, prefill not counted."""
    step_seconds: float
    """Time spent in steps that decoded."""
    drafting: Mapping[str, DraftTotals]
    """By source."""
    usual_drafter: str
    """What drafts for a request that names no drafter: a name of `nimble_coder.engine.drafter.DRAFTERS`."""

    @property
    def tokens_per_step(self) -> float:
        """Tokens per decoding step and request; 1.0 is plain decoding."""
        return 1 + self.accepted_draft_tokens / self.request_steps if self.request_steps else 0.0


class Engine(Protocol):
    """Runs requests concurrently. All methods may be called from any thread."""

    def enqueue(self, request: Request) -> int:
        """Takes a request and returns its id; raises `RequestError` or `QueueFullError`."""

    def prepare(self, guide: Guide) -> None:
        """Compiles a form, so that a request with it is taken at once; raises `RequestError` for one that is bad. That
        may take up to a second."""

    def responses(self, timeout: float) -> list[Response]:
        """The responses that are there; waits up to `timeout` seconds for the first."""

    def cancel(self, request_id: int) -> None:
        """Ends a request at the next step with a final response; an unknown or finished id does nothing."""

    def statistics(self) -> Statistics:
        """A snapshot."""

    def shutdown(self) -> None:
        """Ends every request with a final response and releases the device."""
