"""What clients send to `/infill` and `/completion`. Names and meaning: llama.cpp's tools/server/README.md."""

from typing import Annotated

from msgspec import Meta, Struct

from nimble_coder.gateway.requests.schemas.sampling import SamplingFields
from nimble_coder.gateway.requests.schemas.values import Copies, Factor, Length

RANDOM_SEED = 2**32 - 1
"""llama.cpp's number for no seed, -1 in 32 bits."""
LlamaPrompt = str | Annotated[list[str | int | list[str | int]], Meta(max_length=200_000)]
"""llama.cpp's: a text, token ids, texts and ids mixed, or a list of such prompts."""


class ContextText(Struct, kw_only=True):
    """llama.cpp's `input_extra` element."""

    text: str | None = None
    filename: str | None = None


class LlamaRequest(SamplingFields, kw_only=True):
    """`POST /completion`, llama.cpp's."""

    prompt: LlamaPrompt | None = None
    n_predict: Length | None = None
    max_tokens: Length | None = None
    """OpenAI's name for it."""
    n_cmpl: Copies | None = None
    repeat_penalty: Factor | None = None
    return_tokens: bool | None = None
    response_fields: list[str] | None = None

    @property
    def own_seed(self) -> int | None:
        return None if self.seed in (-1, RANDOM_SEED) else self.seed

    @property
    def wanted_tokens(self) -> int | None:
        """The longest answer that is asked for: -1 is as much as fits, 0 only warms the cache."""
        return self.max_tokens if self.n_predict is None else self.n_predict


class InfillRequest(LlamaRequest, kw_only=True):
    """`POST /infill`, llama.cpp's."""

    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: list[ContextText] | None = None
    repo_name: str | None = None
    filename: str | None = None
