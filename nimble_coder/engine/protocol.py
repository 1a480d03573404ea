"""What every engine does, whatever runs below it: take requests, give tokens, cancel, count, stop.

Shaped after TensorRT-LLM's executor (`tensorrt_llm.bindings.executor`), the second implementation to come.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

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


GREEDY_BELOW = 1e-3
"""Temperatures below this choose greedily: a token whose logit is 0.02 less than the best one's would have less than
e^-20 of its probability, and 1e-40, dividing by which gives infinity, is below it. 0.01, which Continue sends, is not:
there a gap of 0.02 still leaves e^-2."""

Ranked = list[tuple[int, float]]
"""Tokens with their log probabilities, the most likely first."""

MOST_TOP = 20
"""Tokens whose log probabilities one place can have: OpenAI's limit of a chat."""

GREEDY_SHARE = 1e-6
"""A top-p below this leaves the most likely token alone: of any vocabulary we know it has at least this share."""


class Bounds(NamedTuple):
    """What a number may be, for the engine and for the gateway in front of it."""

    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.least:g} to {self.most:g}"

    def hold(self, value: float) -> bool:
        """As FP32, a bound may be a little less than it is; NaN is within none."""
        return self.least - 1e-6 * abs(self.least) <= value <= self.most


# With these no logit becomes infinite.
TEMPERATURE, SHARE, FACTOR, PENALTY = Bounds(0, 1000), Bounds(0, 1), Bounds(0.01, 100), Bounds(-100, 100)
BIAS = Bounds(-100, 100)
MOST_DRAFTS = 32
"""Draft tokens per step by matching suffixes."""


TOKENS_PER_BLOCK = 32
"""The unit of TensorRT-LLM's block metrics (its default `tokens_per_block`)."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen where greedy decoding is not wanted as it is. Names as in TensorRT-LLM's SamplingConfig.

    Drafts are taken where they are what plain decoding draws. Raises `RequestError` for values out of range.
    """

    temperature: float = 1.0
    """0, or anything less than `GREEDY_BELOW`, chooses greedily, after the penalties."""
    top_k: int = 0
    """Only the k most likely tokens; 0: all."""
    top_p: float = 1.0
    """Only the most likely tokens that together have this probability."""
    min_p: float = 0.0
    """Only tokens at least this times as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens that occurred, in the prompt or the output."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that occurred in the output."""
    frequency_penalty: float = 0.0
    """Subtracted from those logits once for each occurrence."""
    min_tokens: int = 0
    """Neither the end id nor a stop word of one token can be chosen before this many tokens, nor does a longer one end
    it before."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Token sequences that are never completed."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit); the least that is allowed forbids the token."""
    begins_with: tuple[tuple[int, ...], ...] = ()
    """Token sequences of which the output begins with one."""
    log_probs: bool = False
    """Responses tell the log probability of each token, before temperature, penalties and cuts."""
    top_log_probs: int = 0
    """With it those of so many most likely tokens in its place."""
    prompt_log_probs: bool = False
    """The first response tells the same of every token of the prompt but the first."""

    def __post_init__(self) -> None:
        for name, (value, bounds) in {
            "temperature": (self.temperature, TEMPERATURE),
            "min_p": (self.min_p, SHARE),
            "repetition_penalty": (self.repetition_penalty, FACTOR),
            "presence_penalty": (self.presence_penalty, PENALTY),
            "frequency_penalty": (self.frequency_penalty, PENALTY),
            **{f"logit_bias of {token}": (bias, BIAS) for token, bias in self.logit_bias},
        }.items():
            if not bounds.hold(value):
                raise RequestError(f"{name} is {value}, which is out of range: send {bounds}")
        for name, (value, good, allowed) in {
            "runtime_top_k": (self.top_k, self.top_k >= 0, "0 (all) or more"),
            "runtime_top_p": (self.top_p, 0 < self.top_p <= 1, "more than 0, up to 1"),
            "min_length": (self.min_tokens, self.min_tokens >= 0, "0 or more"),
            "top_logprobs": (self.top_log_probs, 0 <= self.top_log_probs <= MOST_TOP, f"0 to {MOST_TOP}"),
        }.items():
            if not good:
                raise RequestError(f"{name} is {value}, which is out of range: send {allowed}")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is chosen, after the penalties."""
        return self.temperature < GREEDY_BELOW or self.top_k == 1


@dataclass(frozen=True)
class Request:
    """One prompt to continue, greedily unless it says how to sample."""

    input_ids: list[int]
    max_tokens: int
    end_id: int | None = None
    """Ends the generation and is not part of the output."""
    stop_words: list[list[int]] = field(default_factory=list)
    """Token sequences that end the generation; the one found is the end of the output."""
    lookahead: LookaheadConfig | None = None
    """(w, n, g) for this request; the engine's own where None."""
    draft_tokens: int | None = None
    """The most draft tokens per step, by matching suffixes; takes the place of a (w, n, g). 0 is plain decoding."""
    streaming: bool = True
    """Deltas as they come, or one response with everything."""
    sampling: Sampling | None = None
    seed: int = 0
    """Makes sampling reproducible. Under lookahead it seeds the window's first tokens: other drafts, same output."""

    @property
    def ends(self) -> set[int]:
        """The tokens that end it, each by itself."""
        words = {word[0] for word in self.stop_words if len(word) == 1}
        return words if self.end_id is None else words | {self.end_id}


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
