"""What clients send to `/v1/chat/completions`. Names and meaning: OpenAI's API reference; vLLM's server."""

from collections.abc import Iterator
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from nimble_coder.gateway.requests.schemas.sampling import OpenAISampling
from nimble_coder.gateway.requests.schemas.values import Alternatives, Kept, Length

RESULTS = ("tool", "function")
"""Roles of messages that say what a call gave."""
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
"""Types of parts whose text is all that they hold: a chat's, and those of Responses."""


class ContentPart(Struct, kw_only=True):
    """A part of a message's content."""

    type: str | None = "text"
    text: str | None = None
    refusal: str | None = None
    """What an assistant said instead of a text."""


class FunctionCall(Struct, kw_only=True):
    """A call that the assistant made: OpenAI has the arguments as text, some clients as an object."""

    name: str
    arguments: str | dict[str, Any] | None = "{}"


class ToolCall(Struct, kw_only=True):
    """A message's `tool_calls` element."""

    function: FunctionCall | None = None
    """None in a call of another type."""
    type: str | None = "function"
    id: str | None = None


class Message(Struct, kw_only=True):
    """One message of a chat."""

    role: str
    content: str | list[ContentPart | str] | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    """What `tool_calls` were before there were several."""
    refusal: str | None = None
    """What an assistant said instead of a content; a part of a content may say it too."""
    prefix: bool | None = None
    """Mistral's and DeepSeek's: the answer goes on with this message where it is the last."""

    def __post_init__(self) -> None:
        if self.function_call and not self.tool_calls:
            self.tool_calls = [ToolCall(function=self.function_call)]


class Function(Struct, kw_only=True):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, kw_only=True):
    """An element of `tools`."""

    function: Function = field(default_factory=lambda: Function(name=""))
    """Without a name where none was sent: a tool of another type has no function."""
    type: str | None = "function"

    def as_json(self) -> dict[str, Any]:
        """As the prompt shows it."""
        f = self.function
        shown = {"name": f.name, "description": f.description, "parameters": f.parameters, "strict": f.strict}
        return {"type": "function", "function": {key: value for key, value in shown.items() if value is not None}}


class ChatRequest(OpenAISampling, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: Length | None = None
    logprobs: bool | None = None
    """Of how many alternatives is in `top_logprobs`; a completion says it here."""
    top_logprobs: Alternatives | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = None
    """What `tools` were before there were other kinds; not sent together with them."""
    function_call: str | dict[str, Any] | None = None
    """The same to `tool_choice`; the name of a function stands in it without a `function` around."""
    truncate_prompt_tokens: Kept | None = None
    add_generation_prompt: bool | None = None
    """True unless it is false."""
    continue_final_message: bool | None = None

    @property
    def alternatives(self) -> int:
        return self.top_logprobs or 0

    @property
    def continues(self) -> bool:
        """Whether the answer goes on with the last message: vLLM asks for it beside the messages, Mistral in it."""
        return bool(self.continue_final_message or (self.messages and self.messages[-1].prefix))

    @property
    def is_legacy(self) -> bool:
        """Whether functions are offered or chosen by the older names."""
        return not self.tools and (
            bool(self.functions) or (self.function_call is not None and self.tool_choice is None)
        )

    @property
    def choice_field(self) -> str:
        """Where `choice` is from."""
        return "function_call" if self.is_legacy else "tool_choice"

    @property
    def unread_field(self) -> str | None:
        """What would have another meaning by the other, older or newer, names, which are not read beside these."""
        if self.tools and self.functions:
            return "functions"
        read, unread = getattr(self, self.choice_field), "tool_choice" if self.is_legacy else "function_call"
        return None if getattr(self, unread) in (None, "auto" if read is None else read) else unread

    @property
    def offered(self) -> list[Tool]:
        """The functions that may be called, under either name."""
        if self.is_legacy:
            return [Tool(function=function) for function in self.functions or []]
        allowed = self.allowed
        return [tool for tool in self.tools or [] if allowed is None or tool.function.name in allowed[1]]

    @property
    def choice(self) -> str | dict[str, Any] | None:
        """Which of them must be, in the shape of `tool_choice`; "any" is Mistral's word for "required"."""
        if not self.is_legacy:
            choice = self.tool_choice if self.allowed is None else self.allowed[0]
            return "required" if choice == "any" else choice
        return {"function": self.function_call} if isinstance(self.function_call, dict) else self.function_call

    @property
    def allowed(self) -> tuple[str, frozenset[str]] | None:
        """The choice among some of the tools, and their names, where `tool_choice` leaves no others."""
        match self.tool_choice:
            case {"type": "allowed_tools", "allowed_tools": {"tools": [*tools], **others}}:
                mode = others.get("mode")
                return "auto" if mode is None else str(mode), frozenset(names_of(tools))
        return None


def names_of(tools: list[Any]) -> Iterator[str]:
    """The functions that a `tool_choice` names in a list of tools, empty where one is no function."""
    for tool in tools:
        match tool:
            case {"function": {"name": str(name)}, **others} if others.get("type") in (None, "function"):
                yield name
            case _:
                yield ""
