"""What clients send to `/tokenize` and `/detokenize`. Names and meaning: vLLM's and llama.cpp's servers."""

from typing import Annotated

from msgspec import Meta, Struct

from nimble_coder.gateway.requests.schemas.chat import Message, Tool


class TokenizeRequest(Struct, kw_only=True):
    """`POST /tokenize`: vLLM's `prompt` or `messages`, llama.cpp's `content`."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: list[Message] | None = None
    parse_special: bool | None = None
    return_token_strs: bool | None = None
    with_pieces: bool | None = None
    tools: list[Tool] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class DetokenizeRequest(Struct, kw_only=True):
    """`POST /detokenize`: `tokens` is vLLM's and llama.cpp's."""

    tokens: Annotated[list[int], Meta(max_length=1_000_000)]
    model: str | None = None
