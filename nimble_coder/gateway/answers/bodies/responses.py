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
    safety_identifier: str | None
    prompt_cache_key: str | None
    completed_at: int | None = None
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    usage: ResponseUsage | None = None
    background: Literal[False] = False
    max_tool_calls: None = None
    previous_response_id: None = None
    service_tier: Literal["default"] = "default"
    store: Literal[False] = False
    top_logprobs: Literal[0] = 0
    truncation: Literal["disabled"] = "disabled"


class Event(Struct):
    """What every event of a stream has."""

    sequence_number: int


class WholeEvent(Event):
    """One that carries the response as it is then."""

    response: Response


class ItemEvent(Event):
    """One that carries an item."""

    output_index: int
    item: Item


class PlaceEvent(Event):
    """One of what an item holds."""

    item_id: str
    output_index: int


class PartEvent(PlaceEvent):
    """One of a message's text."""

    content_index: int


class Created(WholeEvent, tag_field="type", tag="response.created"):
    """The first event."""


class InProgress(WholeEvent, tag_field="type", tag="response.in_progress"):
    """The second one."""


class ItemAdded(ItemEvent, tag_field="type", tag="response.output_item.added"):
    """A message or a call begins."""


class PartAdded(PartEvent, tag_field="type", tag="response.content_part.added"):
    """A message's text begins."""

    part: OutputText


class TextDelta(PartEvent, tag_field="type", tag="response.output_text.delta"):
    """More of a message's text."""

    delta: str
    logprobs: list[Any]


class TextDone(PartEvent, tag_field="type", tag="response.output_text.done"):
    """All of a message's text."""

    text: str
    logprobs: list[Any]


class PartDone(PartEvent, tag_field="type", tag="response.content_part.done"):
    """A message's text has ended."""

    part: OutputText


class ArgumentsDelta(PlaceEvent, tag_field="type", tag="response.function_call_arguments.delta"):
    """More of a call's arguments."""

    delta: str


class ArgumentsDone(PlaceEvent, tag_field="type", tag="response.function_call_arguments.done"):
    """All of a call's arguments."""

    name: str
    arguments: str


class ItemDone(ItemEvent, tag_field="type", tag="response.output_item.done"):
    """A message or a call has ended."""


class Completed(WholeEvent, tag_field="type", tag="response.completed"):
    """The last event of a response that is whole."""


class Incomplete(WholeEvent, tag_field="type", tag="response.incomplete"):
    """The last event of a response that a limit has cut."""


class Failed(WholeEvent, tag_field="type", tag="response.failed"):
    """The last event of a response that has failed."""


EVENTS: tuple[type[Event], ...] = (
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
