"""The form of an answer, in each way that clients ask for it: OpenAI's, vLLM's, NIM's and llama.cpp's."""

from typing import Annotated, Any

from msgspec import Meta, Struct

JsonSchema = dict[str, Any] | str
"""As JSON, or as its text."""
Choices = Annotated[list[str], Meta(max_length=5000)]


class NamedSchema(Struct, kw_only=True):
    """The `json_schema` of a `response_format`."""

    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(Struct, kw_only=True):
    """OpenAI's `response_format`."""

    type: str | None = "text"
    json_schema: NamedSchema | None = None
    schema: dict[str, Any] | None = None
    """llama.cpp's place for it."""


class GuidedFields(Struct, kw_only=True):
    """The form of an answer, as vLLM and NIM have asked for it."""

    guided_json: JsonSchema | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    guided_json_object: bool | None = None


class StructuredOutputs(Struct, kw_only=True):
    """The same as vLLM asks for it now."""

    json: JsonSchema | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
