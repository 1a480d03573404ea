"""What a request consumed, in every API of OpenAI's shape."""

from msgspec import Struct


class DraftCounts(Struct):
    """Drafts of lookahead decoding, where OpenAI reports those of predicted outputs."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class PromptCounts(Struct):
    """Of a prompt's tokens."""

    cached_tokens: int
    """Those whose keys and values the engine had already, in whole blocks of 32."""


class Usage(Struct):
    """What a request consumed."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: DraftCounts
    prompt_tokens_details: PromptCounts | None = None
    """Null until the engine has sent its last response, which a stop string may forestall."""
