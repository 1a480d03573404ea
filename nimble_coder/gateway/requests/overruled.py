"""What of a request another part of it overrules, or what means nothing beside the rest: ignored, and said so."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from nimble_coder.gateway.requests.field_check import NOTHING, is_among
from nimble_coder.gateway.requests.fields import FIELDS
from nimble_coder.gateway.requests.schemas.chat import ChatRequest, Message, ToolCall
from nimble_coder.gateway.requests.schemas.completion import CompletionRequest
from nimble_coder.gateway.requests.schemas.fim import FimRequest
from nimble_coder.gateway.requests.schemas.llama import InfillRequest, LlamaRequest
from nimble_coder.gateway.requests.schemas.responses import InputItem, OfferedTool, ResponsesRequest
from nimble_coder.gateway.requests.schemas.sampling import SamplingFields
from nimble_coder.gateway.requests.schemas.tokens import TokenizeRequest

LLAMA = (("n_predict", "max_tokens"), ("repetition_penalty", "repeat_penalty"))
SAME: dict[type[Struct], tuple[tuple[str, ...], ...]] = {
    ChatRequest: (("max_completion_tokens", "max_tokens", "n_predict"),),
    CompletionRequest: (
        ("max_tokens", "options.num_predict", "n_predict"),
        ("temperature", "options.temperature"),
        ("stop", "options.stop"),
    ),
    FimRequest: (("max_tokens", "n_predict"), ("random_seed", "seed")),
    LlamaRequest: LLAMA,
    InfillRequest: LLAMA,
}
"""Names of one thing: the first that is sent holds."""
NAMES = ("repo_name", "filename")
OF_CHATS = ("tools", "add_generation_prompt", "continue_final_message")
ITEMS = {
    "message": ("role", "content"),
    "function_call": ("name", "arguments", "call_id"),
    "function_call_output": ("call_id", "output", "name"),
}
"""What is read of an item of each type, or says again what another says, as the name of what was called does; others
are passed over or refused whole."""


def overruled(asked: Struct) -> Iterator[str]:
    """The names of what does not count in a request that has been decoded."""
    for names in SAME.get(type(asked), ()):
        sent = [(name, value) for name in names if (value := said(asked, name)) is not None]
        yield from (name for name, value in sent[1:] if value != sent[0][1])
    if isinstance(asked, SamplingFields):
        yield from in_sampling(asked)
    match asked:
        case ChatRequest():
            yield from in_messages(asked.messages)
        case ResponsesRequest():
            yield from in_items(asked.input if isinstance(asked.input, list) else [])
            yield from in_tools(asked.tools or [])
        case CompletionRequest(infill_suffix=None):
            yield from meant(asked, ("input_extra", *NAMES))
        case CompletionRequest() | InfillRequest() if not asked.input_extra:
            yield from meant(asked, NAMES)
        case TokenizeRequest(messages=None):
            yield from meant(asked, OF_CHATS)
        case TokenizeRequest() if asked.parse_special:
            yield "parse_special"


def said(asked: object, path: str) -> Any:
    """A field's value, also within another one; None where it is absent."""
    for name in path.split("."):
        asked = getattr(asked, name, None)
    return asked


def meant(asked: Struct, names: tuple[str, ...]) -> Iterator[str]:
    """Those of the fields that ask for something."""
    for name in names:
        value = getattr(asked, name)
        if value is not None and not is_among(value, FIELDS[name].neutral):
            yield name


def in_sampling(asked: SamplingFields) -> Iterator[str]:
    """What does not count beside the name of a drafter, or that itself; of two schemas of one form the one outside."""
    inner, outer = said(asked, "response_format.json_schema.schema"), said(asked, "response_format.schema")
    if None not in (inner, outer) and inner != outer:
        yield "response_format.schema"
    if asked.drafting == "lookahead" and asked.draft_tokens is not None:
        yield "draft_tokens"
    if asked.drafting == "lookahead" and asked.lookahead is False:
        yield "drafting"
    if asked.drafting not in (None, "", "lookahead") and asked.lookahead is not None:
        yield "lookahead"


def in_messages(messages: list[Message]) -> Iterator[str]:
    """What is not shown of a chat's messages."""
    for message in messages:
        older, calls = message.function_call, message.tool_calls or []
        shown = calls if message.role == "assistant" else []
        if older and all(call.function != older for call in shown):
            yield "messages.function_call"
        if calls and not shown and not (older and calls == [ToolCall(function=older)]):
            yield "messages.tool_calls"


def in_items(items: list[InputItem]) -> Iterator[str]:
    """What is not shown of the items of a Responses request."""
    for item in items:
        read = ITEMS.get(item.type or "message")
        for name in InputItem.__struct_fields__ if read else ():
            value = getattr(item, name)
            if name not in ("type", *(read or ())) and value is not None and not is_among(value, NOTHING):
                yield f"input.{name}"


def in_tools(tools: list[OfferedTool]) -> Iterator[str]:
    """What says something else of a function than the object around it does."""
    for tool in tools:
        for name in ("name", "description", "parameters") if tool.function else ():
            value = getattr(tool, name)
            if value and value != getattr(tool.function, name):
                yield f"tools.{name}"
