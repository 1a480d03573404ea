"""A Responses request as the chat that it asks to go on with."""

from typing import Any

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.prompts.chat import check_tool, text_in, unlisted, unnamed
from nimble_coder.gateway.requests.forms import TEXT_FORMAT, of_format
from nimble_coder.gateway.requests.schemas.chat import ChatRequest, FunctionCall, Message, Tool, ToolCall
from nimble_coder.gateway.requests.schemas.responses import PASSED_OVER, InputItem, ResponsesRequest
from nimble_coder.gateway.requests.schemas.sampling import SamplingFields

ROLES = ("user", "system", "developer", "assistant")


def as_chat(asked: ResponsesRequest) -> ChatRequest:
    """Messages and tools in a chat's shape, with all that is said of sampling and form; raises `ApiError` for items and
    tools that are not available."""
    if asked.text and asked.response_format:
        of_format(asked.response_format, TEXT_FORMAT)
    shared: dict[str, Any] = {name: getattr(asked, name) for name in SamplingFields.__struct_fields__}
    return ChatRequest(
        **shared,
        messages=messages_of(asked),
        tools=offered(asked),
        tool_choice=choice_of(asked.tool_choice),
        parallel_tool_calls=asked.parallel_tool_calls,
    )


def messages_of(asked: ResponsesRequest) -> list[Message]:
    """The chat's messages, the instructions first."""
    messages = [Message(role="system", content=asked.instructions)] if asked.instructions else []
    if isinstance(asked.input, str):
        return [*messages, Message(role="user", content=asked.input)]
    if not asked.input:
        raise ApiError(400, "input is empty: send a text or at least one item", "empty_messages", "input")
    for place, item in enumerate(asked.input):
        add(messages, item, f"input[{place}]")
    if not messages:
        text = f"input holds only what is passed over ({', '.join(PASSED_OVER)}): send a text or a message with it"
        raise ApiError(400, text, "empty_messages", "input")
    return messages


def add(messages: list[Message], item: InputItem, field: str) -> None:
    """One item: a call belongs to the assistant's message before it."""
    match item.type or "message":
        case "message":
            if item.role not in ROLES:
                text = f"role {(item.role or '')[:40]!r} is not known: use one of {', '.join(ROLES)}"
                raise ApiError(400, text, "invalid_role", f"{field}.role")
            messages.append(Message(role=item.role, content=text_in(item.content, f"{field}.content")))
        case "function_call":
            if not (messages and messages[-1].role == "assistant"):
                messages.append(Message(role="assistant"))
            name = required(item.name, f"{field}.name")
            call_id = required(item.call_id, f"{field}.call_id")
            call = ToolCall(function=FunctionCall(name=name, arguments=item.arguments), id=call_id)
            messages[-1].tool_calls = [*(messages[-1].tool_calls or []), call]
        case "function_call_output":
            required(item.call_id, f"{field}.call_id")
            if item.output is None:
                required(None, f"{field}.output")
            messages.append(Message(role="tool", content=text_in(item.output, f"{field}.output")))
        case kind if kind not in PASSED_OVER:
            text = f"an item of type {kind[:40]!r} is not available: send messages, function_call, function_call_output"
            raise ApiError(400, text, "unsupported", f"{field}.type")


def required(text: str | None, field: str) -> str:
    """What a call or its result has to have; raises `ApiError` where it is missing."""
    if not text:
        raise ApiError(400, f"{field} is missing: send it, and the call as the answer had it", "invalid_input", field)
    return text


def offered(asked: ResponsesRequest) -> list[Tool]:
    """The functions that may be called; raises `ApiError` for tools that OpenAI would run."""
    tools = []
    for place, tool in enumerate(asked.tools or []):
        check_tool(tool.type, tool.offered, f"tools[{place}]", "name")
        tools.append(Tool(function=tool.offered))
    return tools


def choice_of(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """`tool_choice` in a chat's shape, which may be sent too; raises `ApiError`."""
    if not isinstance(choice, dict) or "function" in choice or "allowed_tools" in choice:
        return choice
    kind = choice.get("type") or "function"
    if kind == "allowed_tools":
        allowed = {"mode": choice.get("mode"), "tools": allowed_in(choice.get("tools"))}
        return {"type": kind, "allowed_tools": allowed}
    if kind != "function":
        text = f"tool_choice of type {str(kind)[:40]!r} is not available here: choose a function"
        raise ApiError(400, text, "unsupported", "tool_choice")
    if not isinstance(name := choice.get("name"), str) or not name:
        raise unnamed("tool_choice.name")
    return {"type": kind, "function": {"name": name}}


def allowed_in(tools: object) -> list[dict[str, Any]]:
    """The tools among which a model may choose, in a chat's shape; raises `ApiError`."""
    if not isinstance(tools, list):
        raise unlisted("tool_choice.tools")
    objects = [tool if isinstance(tool, dict) else {} for tool in tools]
    return [tool if "function" in tool else {"type": tool.get("type"), "function": tool} for tool in objects]
