"""What the gateway answers: the types that bodies are built from and that the OpenAPI document shows.

A stream's chunks are joined as bytes (`wire.py` says why), so their types only describe them; tests hold them to it.
Names and meaning: OpenAI's API reference; vLLM's and llama.cpp's servers for what they add; NIM's API reference.
"""

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType, field

FinishReason: TypeAlias = Literal["stop", "length"]
ChatFinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "function_call"]
StopType: TypeAlias = Literal["eos", "limit", "word"]


class DraftCounts(Struct):
    """Drafts of lookahead decoding, where OpenAI reports those of predicted outputs."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class PromptCounts(Struct):
    """Of a prompt's tokens."""

    cached_tokens: int
    """Those whose keys and values the engine had already, in whole blocks of 32."""


class Usage(Struct):
    """What a request consumed."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: DraftCounts
    prompt_tokens_details: PromptCounts | None = None
    """Null until the engine has sent its last response, which a stop string may forestall."""


class CompletionLogProbs(Struct):
    """Those of the chosen tokens, and with `echo` of the prompt's, whose first has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    text_offset: list[int]
    top_logprobs: list[dict[str, float] | None] | None = None
    """Of as many of the most likely tokens as were asked for, and of the chosen one."""


class CompletionChoice(Struct):
    """One answer to one prompt."""

    index: int
    text: str
    logprobs: CompletionLogProbs | None
    finish_reason: FinishReason
    stop_reason: str | None
    """The stop string that ended it."""
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class Completion(Struct, tag_field="object", tag="text_completion"):
    """The answer of `/v1/completions`."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunkChoice(Struct):
    """What a chunk adds to one choice."""

    index: int
    text: str
    logprobs: CompletionLogProbs | None
    finish_reason: FinishReason | None
    stop_reason: str | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    """In a choice's first chunk, where ids are asked for."""


class CompletionChunk(Struct, tag_field="object", tag="text_completion"):
    """A chunk of a streamed completion; the one with the usage of all has no choices."""

    id: str
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: Usage | UnsetType = UNSET


class CalledFunction(Struct):
    """A function's name, and its arguments as JSON text."""

    name: str
    arguments: str


class CalledTool(Struct, tag_field="type", tag="function"):
    """A call that the model makes."""

    id: str
    function: CalledFunction


class AssistantMessage(Struct):
    """What the model says in a chat."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[CalledTool] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET
    """Where the request has `functions`."""


class TopLogProb(Struct):
    """A token's, in a chat."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogProb(TopLogProb):
    """A chosen token's."""

    top_logprobs: list[TopLogProb]
    """Those of as many of the most likely tokens in its place as were asked for."""


class ChatLogProbs(Struct):
    """Those of the chosen tokens."""

    content: list[TokenLogProb]
    refusal: None = None


class ChatChoice(Struct):
    """One answer to a chat."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogProbs | None
    finish_reason: ChatFinishReason
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(Struct, tag_field="object", tag="chat.completion"):
    """The answer of `/v1/chat/completions` and `/v1/fim/completions`."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | UnsetType = UNSET


class CalledToolChunk(Struct, tag_field="type", tag="function"):
    """A call in a stream: always a whole one."""

    index: int
    id: str
    function: CalledFunction


class ChatDelta(Struct):
    """What a chunk adds to a message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[CalledToolChunk] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET


class ChatChunkChoice(Struct):
    """What a chunk adds to one choice."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogProbs | None
    finish_reason: ChatFinishReason | None
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(Struct, tag_field="object", tag="chat.completion.chunk"):
    """A chunk of a streamed chat; the one with the usage of all has no choices."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    """In a choice's first chunk, where ids are asked for."""


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


class TokenPiece(Struct):
    """A token with its text."""

    id: int
    piece: str


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


class Model(Struct, tag_field="object", tag="model"):
    """A name that the model answers to, with vLLM's `max_model_len`, which Continue reads."""

    id: str
    created: int
    owned_by: str
    root: str
    max_model_len: int
    parent: None = None


class Models(Struct, tag_field="object", tag="list"):
    """The answer of `/v1/models`."""

    data: list[Model]


class Health(Struct, tag_field="object", tag="health.response"):
    """The service is live, or ready."""

    message: str


class Live(Struct):
    """KServe's liveness."""

    live: bool


class Ready(Struct):
    """KServe's readiness."""

    ready: bool


class Version(Struct):
    """The release, and the version of NIM's management API whose shapes are used."""

    release: str
    api: str
    version: str


class License(Struct):
    """NIM's `licenseInfo`."""

    name: str
    path: str
    sha: str
    size: int
    url: str
    type: str
    content: str


class ModelInfo(Struct, rename="camel"):
    """NIM's `modelInfo` element."""

    short_name: str
    model_url: str


class Metadata(Struct):
    """The answer of `/v1/metadata`: what is served and what it was made from."""

    version: str
    asset_info: list[str] = field(name="assetInfo")
    license_info: License = field(name="licenseInfo")
    model_info: list[ModelInfo] = field(name="modelInfo")
    selected_model_profile_id: str = field(name="selectedModelProfileId")
    repository_override: str


class ManifestFile(Struct):
    """The artefact's manifest as one string."""

    manifest_file: str


class DefaultSettings(Struct):
    """What llama.cpp's clients read of them."""

    n_ctx: int


class Props(Struct):
    """The answer of `/props`."""

    default_generation_settings: DefaultSettings
    total_slots: int
    model_path: str
    lookahead: str


class Error(Struct):
    """OpenAI's error object; the SDK reads all of it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Struct):
    """The body of a refusal or a failure; in a stream that has begun, its last event."""

    error: Error


class KServeError(Struct):
    """The same under `/v2`, where the error is the text itself and tritonclient reads it so."""

    error: str
