"""What is answered about a text: its tokens, and the prompt that it becomes. Names: vLLM's and llama.cpp's servers."""

from msgspec import Struct


class TokenPiece(Struct):
    """A token with its text."""

    id: int
    piece: str | list[int]
    """Bytes where they are a part of a character."""


class Tokens(Struct):
    """The answer of `/tokenize`; the tokens are pieces where `with_pieces` asks for them."""

    count: int
    max_model_len: int
    tokens: list[int | TokenPiece]
    token_strs: list[str] | None


class Text(Struct):
    """The answer of `/detokenize`: `prompt` is vLLM's name of the result, `content` llama.cpp's."""

    prompt: str
    content: str


class RenderedPrompt(Struct):
    """A prompt as the engine would get it, control tokens spelled out."""

    prompt: str
    prompt_token_ids: list[int]


class RenderedPrompts(RenderedPrompt):
    """The first of them, and all."""

    prompts: list[RenderedPrompt]
