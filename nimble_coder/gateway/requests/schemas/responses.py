"""What clients send to `/v1/responses`; names and meaning: OpenAI's API reference. Null means absent."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.schemas.chat import ContentPart, Function
from nimble_coder.gateway.requests.schemas.forms import NamedSchema, ResponseFormat
from nimble_coder.gateway.requests.schemas.sampling import SamplingFields

PASSED_OVER = ("reasoning",)
"""Items that clients send back and that hold nothing for this model."""
ITEMS = ("message", "function_call", "function_call_output", *PASSED_OVER)
"""Types of items that are read or passed over."""


class TextFormat(Struct, kw_only=True):
    """What `text.format` of a Responses request holds: a `response_format` without its inner object."""

    type: str | None = "text"
    name: str | None = None
    description: str | None = None
    """Repeated in the answer; the model does not read it."""
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(Struct, kw_only=True):
    """A Responses request's `text`."""

    format: TextFormat | None = None


class InputItem(Struct, kw_only=True):
    """An element of a Responses request's `input`: a message, a call, or what one gave."""

    type: str | None = "message"
    role: str | None = None
    content: str | list[ContentPart | str] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    output: str | list[ContentPart | str] | None = None


class OfferedTool(Struct, kw_only=True):
    """A tool of a Responses request, whose function stands in it without an object around; a chat's is taken too."""

    type: str | None = "function"
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    function: Function | None = None

    @property
    def offered(self) -> Function:
        """What may be called."""
        own = Function(
            name=self.name or "", description=self.description, parameters=self.parameters, strict=self.strict
        )
        return self.function or own


class ResponsesRequest(SamplingFields, kw_only=True):
    """`POST /v1/responses`, OpenAI's, of which nothing is kept."""

    input: str | list[InputItem]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    text: TextOptions | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def __post_init__(self) -> None:
        if self.text and self.text.format:
            if self.response_format:
                text = "text.format and response_format both ask for a form of the answer: send one of them"
                raise ApiError(400, text, "invalid_input", "response_format")
            given = self.text.format
            has_schema = given.schema is not None
            named = NamedSchema(name=given.name, schema=given.schema, strict=given.strict) if has_schema else None
            self.response_format = ResponseFormat(type=given.type, json_schema=named)
