"""What `/v1/responses` answers: the response, its items, and the events of its stream.

Names and meaning: OpenAI's API reference, Responses and its streaming events.
"""

from typing import Any, Literal, TypeAlias

from msgspec import Struct

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]
ResponseStatus: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(Struct, tag_field="type", tag="output_text"):
    """The text of a message."""

    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputMessage(Struct, tag_field="type", tag="message"):
    """What the model says."""

    id: str
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class OutputCall(Struct, tag_field="type", tag="function_call"):
    """A call that the model makes; its arguments are JSON as text."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


Item: TypeAlias = OutputMessage | OutputCall


class IncompleteDetails(Struct):
    """Why a response is cut."""

    reason: Literal["max_output_tokens"]


class ResponseFailure(Struct):
    """Why a response has failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class CachedTokens(Struct):
    """Of a prompt's tokens, those whose keys and values the engine had already."""

    cached_tokens: int
    cache_write_tokens: int


class ReasoningTokens(Struct):
    """No model here reasons apart from its answer."""

    reasoning_tokens: int


class ResponseUsage(Struct):
    """What a request consumed."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class Response(Struct, tag_field="object", tag="response"):
    """The answer of `/v1/responses`; nothing of it is kept here."""

    id: str
    created_at: int
    status: ResponseStatus
    model: str
    output: list[Item]
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    parallel_tool_calls: bool
    reasoning: dict[str, None]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float
    user: str | None
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    usage: ResponseUsage | None = None
    background: Literal[False] = False
    previous_response_id: None = None
    service_tier: Literal["default"] = "default"
    store: Literal[False] = False
    truncation: Literal["disabled"] = "disabled"


class Created(Struct, tag_field="type", tag="response.created"):
    """The first event."""

    sequence_number: int
    response: Response


class InProgress(Struct, tag_field="type", tag="response.in_progress"):
    """The second one."""

    sequence_number: int
    response: Response


class ItemAdded(Struct, tag_field="type", tag="response.output_item.added"):
    """A message or a call begins."""

    sequence_number: int
    output_index: int
    item: Item


class PartAdded(Struct, tag_field="type", tag="response.content_part.added"):
    """A message's text begins."""

    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputText


class TextDelta(Struct, tag_field="type", tag="response.output_text.delta"):
    """More of a message's text."""

    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[Any]


class TextDone(Struct, tag_field="type", tag="response.output_text.done"):
    """All of a message's text."""

    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[Any]


class PartDone(Struct, tag_field="type", tag="response.content_part.done"):
    """A message's text has ended."""

    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputText


class ArgumentsDelta(Struct, tag_field="type", tag="response.function_call_arguments.delta"):
    """More of a call's arguments."""

    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(Struct, tag_field="type", tag="response.function_call_arguments.done"):
    """All of a call's arguments."""

    sequence_number: int
    item_id: str
    output_index: int
    name: str
    arguments: str


class ItemDone(Struct, tag_field="type", tag="response.output_item.done"):
    """A message or a call has ended."""

    sequence_number: int
    output_index: int
    item: Item


class Completed(Struct, tag_field="type", tag="response.completed"):
    """The last event of a response that is whole."""

    sequence_number: int
    response: Response


class Incomplete(Struct, tag_field="type", tag="response.incomplete"):
    """The last event of a response that a limit has cut."""

    sequence_number: int
    response: Response


class Failed(Struct, tag_field="type", tag="response.failed"):
    """The last event of a response that has failed."""

    sequence_number: int
    response: Response


EVENTS: tuple[type[Struct], ...] = (
    Created,
    InProgress,
    ItemAdded,
    PartAdded,
    TextDelta,
    TextDone,
    PartDone,
    ArgumentsDelta,
    ArgumentsDone,
    ItemDone,
    Completed,
    Incomplete,
    Failed,
)
