"""What `/v1/completions` answers. Names and meaning: OpenAI's API reference; vLLM's server for what it adds."""

from typing import Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from nimble_coder.gateway.answers.bodies.usage import Usage

FinishReason: TypeAlias = Literal["stop", "length"]


class CompletionLogProbs(Struct):
    """Those of the chosen tokens, and with `echo` of the prompt's, whose first has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    text_offset: list[int]
    top_logprobs: list[dict[str, float] | None] | None = None
    """Of as many of the most likely tokens as were asked for, and of the chosen one."""


class CompletionChoice(Struct):
    """One answer to one prompt."""

    index: int
    text: str
    logprobs: CompletionLogProbs | None
    finish_reason: FinishReason
    stop_reason: int | str | None
    """The stop string that ended it, or the one of `stop_token_ids`; vLLM's."""
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class Completion(Struct, tag_field="object", tag="text_completion"):
    """The answer of `/v1/completions`."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunkChoice(Struct):
    """What a chunk adds to one choice."""

    index: int
    text: str
    logprobs: CompletionLogProbs | None
    finish_reason: FinishReason | None
    stop_reason: int | str | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    """In a choice's first chunk, where ids are asked for."""


class CompletionChunk(Struct, tag_field="object", tag="text_completion"):
    """A chunk of a streamed completion; the one with the usage of all has no choices."""

    id: str
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: Usage | UnsetType = UNSET
