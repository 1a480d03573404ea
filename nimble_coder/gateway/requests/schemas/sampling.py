"""The fields that every way of asking for text shares, and those that OpenAI's routes share."""

from typing import Annotated

from msgspec import Meta, Struct

from build_engine.lookahead import PLAIN, LookaheadConfig, LookaheadError
from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.schemas.forms import GuidedFields, JsonSchema, ResponseFormat, StructuredOutputs
from nimble_coder.gateway.requests.schemas.values import (
    Alternatives,
    Biases,
    BiasPairs,
    Copies,
    Count,
    Factor,
    Length,
    Milliseconds,
    Penalty,
    Share,
    Stops,
    StopString,
    Temperature,
)


class StreamOptions(Struct, kw_only=True):
    """OpenAI's `stream_options`, and vLLM's usage in every chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(GuidedFields, kw_only=True):
    """The fields that every way of asking for text shares."""

    model: str | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    seed: int | None = None
    stop: StopString | Stops | None = None
    repetition_penalty: Factor | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Biases | BiasPairs | None = None
    """By token id, or by a text, of whose tokens each is meant; false forbids. The list is llama.cpp's."""
    bad_words: StopString | Stops | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Count | None = None
    stop_token_ids: Annotated[list[int], Meta(max_length=64)] | None = None
    lookahead: Annotated[list[Count], Meta(min_length=3, max_length=3)] | bool | None = None
    """(w,n,g) of this request, false for plain decoding; the engine's own by default."""
    draft_tokens: Annotated[int, Meta(ge=0, le=MOST_DRAFTS)] | None = None
    """The portable engine drafts up to so many tokens per step by matching suffixes, in place of lookahead."""
    drafting: Annotated[str, Meta(max_length=32, pattern="^[a-z_]*$")] | None = None
    """What proposes them, by the portable engine's name for it; goes before `lookahead` and `draft_tokens`."""
    t_max_predict_ms: Milliseconds | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    nvext: GuidedFields | None = None
    json_schema: JsonSchema | None = None
    """llama.cpp's."""
    grammar: str | None = None
    """GBNF, llama.cpp's."""

    @property
    def stops(self) -> tuple[str, ...]:
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in found if stop)

    @property
    def own_seed(self) -> int | None:
        """None where each answer is to be another one: llama.cpp's and vLLM's word for that is -1."""
        return None if self.seed == -1 else self.seed

    @property
    def predict_seconds(self) -> float | None:
        return self.t_max_predict_ms / 1000 if self.t_max_predict_ms and self.t_max_predict_ms > 0 else None

    @property
    def asked_lookahead(self) -> LookaheadConfig | None:
        """Raises `ApiError` for an illegal combination."""
        if self.lookahead is not None and self.draft_tokens is not None:
            text = "lookahead and draft_tokens are two ways to draft: send one of them"
            raise ApiError(400, text, "invalid_lookahead", "draft_tokens")
        if isinstance(self.lookahead, list):
            try:
                return LookaheadConfig(*self.lookahead)
            except LookaheadError as error:
                raise ApiError(400, str(error), "invalid_lookahead", "lookahead") from None
        return PLAIN if self.lookahead is False else None


class OpenAISampling(SamplingFields, kw_only=True):
    """What chat and completions share."""

    max_tokens: Length | None = None
    n_predict: Length | None = None
    """llama.cpp's name, where nothing else says it; 0 warms the cache."""
    n: Copies | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | Alternatives | None = None
    return_token_ids: bool | None = None
    """The token ids of every chunk too, and one chunk per decoding step (vLLM's name)."""

    @property
    def wanted_tokens(self) -> int | None:
        """The longest answer that is asked for; None leaves it to the route."""
        return self.n_predict if self.max_tokens is None else self.max_tokens

    @property
    def wants_log_probs(self) -> bool:
        """0 asks for the chosen tokens' alone."""
        return self.logprobs is not None and self.logprobs is not False

    @property
    def alternatives(self) -> int:
        """Of how many of the most likely tokens the log probabilities are wanted beside the chosen one's."""
        return 0 if self.logprobs is None or isinstance(self.logprobs, bool) else self.logprobs

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's own log probabilities are wanted."""
        return False

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_continuous_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)
