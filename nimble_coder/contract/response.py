"""What an engine answers: tokens as they come, and why a request ended."""

from dataclasses import dataclass
from enum import Enum

Ranked = list[tuple[int, float]]
"""Tokens with their log probabilities, the most likely first."""

TOKENS_PER_BLOCK = 32
"""The unit of TensorRT-LLM's block metrics (its default `tokens_per_block`)."""

USUAL_DRAFTER = "nimble_usual_drafter"
"""The metric in which an engine tells what drafts for a request that names no drafter: 1 where the label `drafter` says
it, else 0. Only the engine knows, since it depends on the device that it found."""


class FinishReason(Enum):
    """Why a generation ended."""

    END_ID = "end_id"
    STOP_WORDS = "stop_words"
    LENGTH = "length"
    CANCELLED = "cancelled"


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
    kv_cache_reused_blocks: int
    """Whole blocks of the prompt whose entries were there already."""
    kv_cache_alloc_total_blocks: int
    """Blocks that prompt and output take."""

    @property
    def kv_cache_alloc_new_blocks(self) -> int:
        return self.kv_cache_alloc_total_blocks - self.kv_cache_reused_blocks

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
    log_probs: list[float] | None = None
    """One per token, where asked for."""
    cum_log_prob: float = 0.0
    """The sum over all tokens of the request so far."""
    top_log_probs: list[Ranked] | None = None
    """One list per token, where asked for."""
    prompt_log_probs: list[tuple[float, Ranked]] | None = None
    """One per token of the prompt but the first, where asked for; in the first response."""

    @property
    def is_final(self) -> bool:
        return self.finish_reason is not None or self.error is not None
