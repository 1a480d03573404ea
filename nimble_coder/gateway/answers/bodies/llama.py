"""What `/infill` and `/completion` answer. Names and meaning: llama.cpp's tools/server/README.md."""

from typing import Any, Literal, TypeAlias

from msgspec import Struct

StopType: TypeAlias = Literal["eos", "limit", "word"]


class LlamaChunk(Struct):
    """A chunk in llama.cpp's format; the last one is a `LlamaResult`."""

    index: int
    content: str
    tokens: list[int]
    stop: bool


class LlamaSettings(Struct):
    """What was in force."""

    n_predict: int | None
    seed: int
    temperature: float
    top_k: int
    top_p: float
    stop: list[str]
    stream: bool


class LlamaTimings(Struct):
    """Times are in milliseconds."""

    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float
    draft_n: int
    draft_n_accepted: int


class LlamaResult(Struct):
    """The answer of `/infill` and `/completion`, unless `response_fields` asks for a part of it."""

    index: int
    content: str
    prompt: str
    tokens: list[int]
    id_slot: int
    stop: bool
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    generation_settings: LlamaSettings
    has_new_line: bool
    truncated: bool
    stop_type: StopType
    stopping_word: str
    timings: LlamaTimings


LlamaFields: TypeAlias = dict[str, Any]
"""The `response_fields` of a `LlamaResult`; `timings/prompt_n` stays the key of what it names."""
