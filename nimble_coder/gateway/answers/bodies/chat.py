"""What `/v1/chat/completions` and `/v1/fim/completions` answer. Names and meaning: OpenAI's API reference."""

from typing import Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from nimble_coder.gateway.answers.bodies.usage import Usage

ChatFinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "function_call"]


class CalledFunction(Struct):
    """A function's name, and its arguments as JSON text."""

    name: str
    arguments: str


class CalledTool(Struct, tag_field="type", tag="function"):
    """A call that the model makes."""

    id: str
    function: CalledFunction


class AssistantMessage(Struct):
    """What the model says in a chat."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[CalledTool] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET
    """Where the request has `functions`."""


class TopLogProb(Struct):
    """A token's, in a chat."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogProb(TopLogProb):
    """A chosen token's."""

    top_logprobs: list[TopLogProb]
    """Those of as many of the most likely tokens in its place as were asked for."""


class ChatLogProbs(Struct):
    """Those of the chosen tokens."""

    content: list[TokenLogProb]
    refusal: None = None


class ChatChoice(Struct):
    """One answer to a chat."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogProbs | None
    finish_reason: ChatFinishReason
    stop_reason: int | str | None
    """The stop string that ended it, or the one of `stop_token_ids`; vLLM's."""
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(Struct, tag_field="object", tag="chat.completion"):
    """The answer of `/v1/chat/completions` and `/v1/fim/completions`."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | UnsetType = UNSET


class CalledFunctionChunk(Struct):
    """What a chunk adds to a call: its first one has the name, each one more of the arguments."""

    arguments: str
    name: str | UnsetType = UNSET


class CalledToolChunk(Struct):
    """The same with the number of the call; its first one has an id and a type."""

    index: int
    function: CalledFunctionChunk
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(Struct):
    """What a chunk adds to a message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[CalledToolChunk] | UnsetType = UNSET
    function_call: CalledFunctionChunk | UnsetType = UNSET


class ChatChunkChoice(Struct):
    """What a chunk adds to one choice."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogProbs | None
    finish_reason: ChatFinishReason | None
    stop_reason: int | str | UnsetType | None = UNSET
    """In the choice's last chunk."""
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(Struct, tag_field="object", tag="chat.completion.chunk"):
    """A chunk of a streamed chat; the one with the usage of all has no choices."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    """In a choice's first chunk, where ids are asked for."""
