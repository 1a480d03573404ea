"""What clients send to `/v1/completions`. Names and meaning: OpenAI's API reference; vLLM's and llama.cpp's servers."""

from typing import Annotated

from msgspec import Meta, Struct

from nimble_coder.gateway.requests.schemas.llama import ContextText
from nimble_coder.gateway.requests.schemas.sampling import OpenAISampling
from nimble_coder.gateway.requests.schemas.values import Copies, Kept, Length, Stops, StopString, Temperature


class OllamaOptions(Struct, kw_only=True):
    """What Twinny's "OpenAI compatible" provider puts where Ollama has it."""

    num_predict: Length | None = None
    temperature: Temperature | None = None
    stop: StopString | Stops | None = None


class CompletionRequest(OpenAISampling, kw_only=True):
    """`POST /v1/completions`; with a `suffix`, fill-in-the-middle."""

    prompt: str | Annotated[list[str | int | list[int]], Meta(max_length=200_000)] | None = None
    suffix: str | None = None
    echo: bool | None = None
    truncate_prompt_tokens: Kept | None = None
    best_of: Copies | None = None
    options: OllamaOptions | None = None
    """Holds for what is not said beside it."""
    input_extra: list[ContextText] | None = None
    repo_name: str | None = None
    filename: str | None = None

    def __post_init__(self) -> None:
        if self.options:
            self.max_tokens = self.options.num_predict if self.max_tokens is None else self.max_tokens
            self.temperature = self.options.temperature if self.temperature is None else self.temperature
            self.stop = self.options.stop if self.stop is None else self.stop

    @property
    def infill_suffix(self) -> str | None:
        """What is behind the hole; None where there is none, or where the prompt has the infill format already."""
        return None if self.suffix == "" and is_templated(self.prompt) else self.suffix

    @property
    def scores_prompt(self) -> bool:
        return bool(self.echo) and self.wants_log_probs


def is_templated(prompt: object) -> bool:
    """Whether a client has written the infill format out itself, in a text or the only one of a list."""
    text = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
    return isinstance(text, str) and text.startswith(("<|fim_prefix|>", "<|repo_name|>", "<|file_sep|>"))
