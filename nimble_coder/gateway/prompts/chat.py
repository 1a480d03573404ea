"""Chat prompts in ChatML, as Qwen2.5's template writes them, with every user's text kept apart from the control tokens.

Format: `chat_template` in tokenizer_config.json of Qwen2.5-Coder-Instruct, tools block included. The template itself
cannot be run for this: it would paste texts and control strings into one string.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from nimble_coder.contract.request import GuideType
from nimble_coder.gateway.answers.bodies.chat import ChatFinishReason
from nimble_coder.gateway.answers.calling import Calling
from nimble_coder.gateway.answers.strict_arguments import StrictArguments
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.prompts.encoding import Piece, PromptEncoder
from nimble_coder.gateway.requests.forms import Function as FormFunction
from nimble_coder.gateway.requests.forms import answer_schema, call_guide, guide_of, named_guide, turn_guide
from nimble_coder.gateway.requests.parameters import check_parameters
from nimble_coder.gateway.requests.schemas.chat import (
    RESULTS,
    TEXT_PARTS,
    ChatRequest,
    ContentPart,
    Function,
    FunctionCall,
    Message,
    Tool,
    ToolCall,
)

QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
TOOLS_HEAD = (
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
CALL_TAG = "<tool_call>"
MODES = ("auto", "required", "any", "none")
"""Of a choice among some of the tools."""
BESIDE = {"functions": "tools", "function_call": "tools or tool_choice", "tool_choice": "functions or function_call"}
CHOICES = {
    "tool_choice": "none, auto, required, or an object of type function with its name",
    "function_call": "none, auto, or an object with the function's name",
}


class ChatPrompts:
    """Renders chats for one checkpoint."""

    def __init__(self, encoder: PromptEncoder, tokenizer_directory: Path) -> None:
        self._encoder = encoder
        self._default_system = default_system(tokenizer_directory)
        self._start, self._end = encoder.id("<|im_start|>"), encoder.id("<|im_end|>")

    def encode(self, request: ChatRequest) -> list[int]:
        """The prompt's ids; raises `ApiError` for messages that cannot be rendered."""
        messages = request.messages
        if not messages:
            raise ApiError(400, "messages is empty: send at least one", "empty_messages", "messages")
        check_prefixes(messages)
        own_system = messages[0].role in ("system", "developer")
        system = text_of(messages[0], 0) if own_system else self._default_system
        calling = calling_of(request)
        tools = request.offered if calling.names else []
        pieces: list[Piece] = [self._start, f"system\n{system}", *self._tools(tools), self._end, "\n"]
        for index in range(int(own_system), len(messages)):
            pieces += self._message(messages, index)
        if request.continues:
            del pieces[-2:]
        elif request.add_generation_prompt is not False:
            pieces += [self._start, "assistant\n", *self._opening(calling)]
        return self._encoder.encode(pieces)

    def _opening(self, calling: Calling) -> list[Piece]:
        if not calling.opening:
            return []
        return [self._encoder.id(CALL_TAG), calling.opening.removeprefix(CALL_TAG)]

    def _tools(self, tools: Sequence[Tool]) -> list[Piece]:
        if not tools:
            return []
        lines = [f"\n{json.dumps(tool.as_json(), ensure_ascii=False)}" for tool in tools]
        return [*self._encoder.split(TOOLS_HEAD), *lines, *self._encoder.split(TOOLS_TAIL)]

    def _message(self, messages: Sequence[Message], index: int) -> list[Piece]:
        message = messages[index]
        if message.role not in ROLES:
            text = f"role {message.role[:40]!r} is not known: use one of {', '.join(ROLES)}"
            raise ApiError(400, text, "invalid_role", f"messages[{index}].role")
        text = text_of(message, index)
        if message.role in RESULTS:
            return self._result(messages, index, text)
        role = "system" if message.role == "developer" else message.role
        if role != "assistant" or not message.tool_calls:
            return [self._start, f"{role}\n{text}", self._end, "\n"]
        said = [f"\n{text}"] if text else []
        calls = self._calls(message.tool_calls, f"messages[{index}].tool_calls")
        return [self._start, role, *said, *calls, self._end, "\n"]

    def _calls(self, calls: Sequence[ToolCall], field: str) -> list[Piece]:
        opening, closing = self._encoder.id(CALL_TAG), self._encoder.id("</tool_call>")
        pieces: list[Piece] = []
        for place, call in enumerate(calls):
            function = function_of(call, f"{field}[{place}]")
            text = arguments_of(function)
            name = json.dumps(function.name, ensure_ascii=False)
            pieces += ["\n", opening, f'\n{{"name": {name}, "arguments": {text}}}\n', closing]
        return pieces

    def _result(self, messages: Sequence[Message], index: int, text: str) -> list[Piece]:
        """Results that follow each other share one user turn."""
        is_first = index == 0 or messages[index - 1].role not in RESULTS
        is_last = index + 1 == len(messages) or messages[index + 1].role not in RESULTS
        opening: list[Piece] = [self._start, "user"] if is_first else []
        closing: list[Piece] = [self._end, "\n"] if is_last else []
        return [*opening, f"\n<tool_response>\n{text}\n</tool_response>", *closing]


def check_prefixes(messages: Sequence[Message]) -> None:
    """Raises `ApiError` where a message that is to be gone on with is not the assistant's. Only the last one is gone on
    with; those before it keep what they asked for in their turn."""
    for index, message in enumerate(messages):
        if message.prefix and message.role != "assistant":
            text = "prefix is for messages of the assistant: leave it out elsewhere"
            raise ApiError(400, text, "invalid_input", f"messages[{index}].prefix")


def calling_of(request: ChatRequest) -> Calling:
    """What `tools` and `tool_choice` allow; raises `ApiError` for a choice that cannot be kept.

    A call is demanded by beginning it in the model's place, which any engine goes on with, and by the form of the rest,
    which the portable engine holds to.
    """
    if field := request.unread_field:
        text = f"{field} stands beside {BESIDE[field]}: tools go with tool_choice, functions with function_call"
        raise ApiError(400, text, "invalid_input", field)
    for place, tool in enumerate(request.tools or []):
        check_tool(tool.type, tool.function, f"tools[{place}]", "function")
    check_allowed(request)
    offered = functions_of(request)
    for function in offered:
        check_parameters(function.name, function.parameters, "functions" if request.is_legacy else "tools")
    names = frozenset(function.name for function in offered)
    choice, most = request.choice, 1 if request.is_legacy or request.parallel_tool_calls is False else None
    reason: ChatFinishReason = "function_call" if request.is_legacy else "tool_calls"
    if choice == "none":
        return Calling()
    if choice in (None, "auto"):
        strict = StrictArguments(map(as_function, offered))
        return Calling(names, finish_reason=reason, most=most, is_legacy=request.is_legacy, strict=strict)
    field = request.choice_field
    name = None if choice == "required" else chosen_name(choice, field)
    if not names or name not in (None, *names):
        text = f"{field} demands {'a call' if name is None else repr(name[:80])}, and there is no such tool"
        raise ApiError(400, text, "invalid_tool_choice", field)
    if request.continues or request.add_generation_prompt is False:
        text = f"{field} demands a call, which only a new turn of the assistant can begin with"
        raise ApiError(400, text, "invalid_tool_choice", field)
    # No blank at the end: the model's next token begins with one. OpenAI ends a demanded function's call with "stop".
    functions = [as_function(function) for function in offered if name in (None, function.name)]
    is_only = len(functions) == 1
    begun = f' {json.dumps(functions[0][0], ensure_ascii=False)}, "arguments":' if is_only else ""
    return Calling(
        names,
        f'{CALL_TAG}\n{{"name":{begun}',
        call_guide(functions, is_only),
        tuple(each for each, _, _ in functions),
        "stop" if name else reason,
        most,
        request.is_legacy,
        tuple(functions),
    )


def functions_of(request: ChatRequest) -> list[Function]:
    """What may be called, each once; raises `ApiError` for two of one name that are not the same: a call has the name
    alone. Agents with several sources of tools may send the same one twice."""
    found: dict[str, Function] = {}
    for tool in request.offered:
        name = tool.function.name
        if found.setdefault(name, tool.function) != tool.function:
            text = f"two functions have the name {name[:80]!r} and are not the same: give each a name of its own"
            raise ApiError(400, text, "invalid_input", "functions" if request.is_legacy else "tools")
    return [*found.values()]


def check_allowed(request: ChatRequest) -> None:
    """Raises `ApiError` where a choice among some of the tools names one that is not there, or no list of them."""
    choice = request.tool_choice
    if request.allowed is None and isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        raise unlisted("tool_choice.allowed_tools.tools")
    if request.allowed and request.allowed[0] not in MODES:
        text = f"tool_choice has the mode {request.allowed[0][:40]!r}: send auto or required"
        raise ApiError(400, text, "invalid_tool_choice", "tool_choice")
    names = {tool.function.name for tool in request.tools or []}
    for name in sorted((request.allowed[1] if request.allowed else frozenset()) - names):
        what = f"the function {name[:80]!r}, and there is no such tool" if name else "something that names no function"
        raise ApiError(400, f"tool_choice allows {what}", "invalid_tool_choice", "tool_choice")


def check_tool(kind: str | None, function: Function, place: str, field: str) -> None:
    """Raises `ApiError` for tools that are no functions, which OpenAI would run, and for a function without a name,
    which that field of the tool has."""
    if kind not in (None, "function"):
        text = f"a tool of type {kind[:40]!r} is not available here: only functions are, which the client runs"
        raise ApiError(400, text, "unsupported", f"{place}.type")
    if not function.name:
        raise ApiError(400, "a function has no name: send one", "invalid_input", f"{place}.{field}")


def check_form_beside(calling: Calling, request: ChatRequest) -> None:
    """Raises `ApiError` for a demanded call beside a form that is no JSON: an answer cannot be both. Agents
    send one that is JSON with every turn, for those that end without calls."""
    form = named_guide(request) if calling.opening else None
    if form and form[1].type not in (GuideType.JSON, GuideType.JSON_SCHEMA):
        text = f"{request.choice_field} demands a call, and {form[0]} another answer: send one of them"
        raise ApiError(400, text, "invalid_input", form[0])


def held(calling: Calling, request: ChatRequest) -> Calling:
    """The same on an engine that holds answers to forms: calls that are offered are held from where they begin. A form
    that is no JSON holds the whole answer, and there are no calls then."""
    if calling.opening or not calling.names:
        return calling
    form = guide_of(request)
    answer = answer_schema(form) if form else None
    if form and answer is None:
        return Calling()
    functions = [as_function(function) for function in functions_of(request)]
    held_names = tuple(name for name, _, _ in functions)
    return replace(calling, guide=turn_guide(functions, calling.most, answer), held_functions=held_names)


def as_function(function: Function) -> FormFunction:
    """What a form says of a function."""
    return function.name, function.parameters, bool(function.strict)


def chosen_name(choice: str | dict[str, Any] | None, field: str) -> str:
    """The function that a `tool_choice` names, or what that was called before."""
    if isinstance(choice, dict) and choice.get("type") in (None, "function") and choice.keys() & {"type", "function"}:
        match choice:
            case {"function": {"name": str(name)}} if name:
                return name
        raise unnamed(f"{field}.function.name" if field == "tool_choice" else f"{field}.name")
    raise ApiError(400, f"{field} is not known: use {CHOICES[field]}", "invalid_tool_choice", field)


def unnamed(field: str) -> ApiError:
    """The refusal of a choice whose function has no name."""
    return ApiError(400, f"{field} names no function: send the name of one", "invalid_tool_choice", field)


def unlisted(field: str) -> ApiError:
    """The refusal of a choice among tools that are no list."""
    return ApiError(400, f"{field} is no list: send the functions that may be called", "invalid_tool_choice", field)


def function_of(call: ToolCall, place: str) -> FunctionCall:
    """What a past call has called; raises `ApiError` where that is no function."""
    if (kind := call.type or "function") != "function":
        text = f"a call of type {kind[:40]!r} is not available here: only functions' calls are"
        raise ApiError(400, text, "unsupported", f"{place}.type")
    if call.function is None:
        raise ApiError(400, f"{place}.function is missing: send it", "invalid_input", f"{place}.function")
    return call.function


def arguments_of(call: FunctionCall) -> str:
    """A past call's arguments as JSON: an object where there are none, a string where they are no JSON."""
    if not isinstance(call.arguments, str):
        return json.dumps(call.arguments or {}, ensure_ascii=False)
    text = call.arguments.strip()
    try:
        return call.arguments if msgspec.json.decode(text or "null") is not None else "{}"
    except (msgspec.DecodeError, RecursionError):
        return json.dumps(call.arguments, ensure_ascii=False)


def text_of(message: Message, index: int) -> str:
    """A message's text; raises `ApiError` for content that is no text."""
    said = text_in(message.content, f"messages[{index}].content")
    return "\n".join(text for text in (said, message.refusal) if text)


def text_in(content: str | Sequence[ContentPart | str] | None, field: str) -> str:
    """The text of a message, or of what a call gave; raises `ApiError`, which names the field."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for place, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
            continue
        said = [text for text in (part.text, part.refusal) if text is not None]
        kind = part.type or "text"
        if kind not in TEXT_PARTS:
            text = f"content of type {kind[:40]!r} is not supported: this model reads text only"
            raise ApiError(400, text, "unsupported_content", field)
        if not said:
            raise ApiError(400, f"{field}[{place}].text is missing: send it", "invalid_input", f"{field}[{place}].text")
        texts += said
    return "\n".join(texts)


def default_system(tokenizer_directory: Path) -> str:
    """What the checkpoint's template says where a chat has no system message: the first such text in it."""
    found = re.search(r"<\|im_start\|>system\\n([^'{<]+)<\|im_end\|>", chat_template(tokenizer_directory))
    return found[1] if found else QWEN_SYSTEM


def chat_template(tokenizer_directory: Path) -> str:
    """The checkpoint's template, empty where it has none: a file of its own, as newer versions of transformers save it,
    or in `tokenizer_config.json`, where there may be several."""
    own, config = tokenizer_directory / "chat_template.jinja", tokenizer_directory / "tokenizer_config.json"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    if isinstance(found, list):
        named = [each for each in found if isinstance(each, dict)]
        found = next((each.get("template") for each in named if each.get("name") == "default"), None)
    return found if isinstance(found, str) else ""
