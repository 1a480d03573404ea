"""What clients send and the gateway reads; `fields.py` says what becomes of the rest. Null means absent.

Names and meaning: OpenAI's API reference; vLLM's and llama.cpp's servers for what they add; Mistral's FIM endpoint.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from build_engine.lookahead import PLAIN, LookaheadConfig, LookaheadError
from nimble_coder.contract.bounds import BIAS, FACTOR, MOST_DRAFTS, MOST_TOP, PENALTY, SHARE, TEMPERATURE, Bounds
from nimble_coder.gateway.errors import ApiError


def within(bounds: Bounds) -> Meta:
    """The engine's bounds of a number as those of a field."""
    return Meta(ge=bounds.least, le=bounds.most)


Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Length = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
Kept = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
"""So many of a prompt's last tokens; -1 for as many as fit."""
Alternatives = Annotated[int, Meta(ge=0, le=MOST_TOP)]
Share = Annotated[float, within(SHARE)]
Penalty = Annotated[float, within(PENALTY)]
Factor = Annotated[float, within(FACTOR)]
Milliseconds = Annotated[float, Meta(ge=-1, le=86_400_000)]
Copies = Annotated[int, Meta(ge=1, le=16)]
Temperature = Annotated[float, within(TEMPERATURE)]
Bias = Annotated[float, within(BIAS)]
Biases = Annotated[dict[str, Bias], Meta(max_length=1024)]
BiasPairs = Annotated[list[tuple[int | str, Bias | bool]], Meta(max_length=1024)]
LlamaPrompt = str | Annotated[list[str | int | list[str | int]], Meta(max_length=200_000)]
"""llama.cpp's: a text, token ids, texts and ids mixed, or a list of such prompts."""
JsonSchema = dict[str, Any] | str
"""As JSON, or as its text."""
Choices = Annotated[list[str], Meta(max_length=5000)]
StopString = Annotated[str, Meta(max_length=1024)]
Stops = Annotated[list[StopString], Meta(max_length=64)]


class StreamOptions(Struct, kw_only=True):
    """OpenAI's `stream_options`, and vLLM's usage in every chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class NamedSchema(Struct, kw_only=True):
    """The `json_schema` of a `response_format`."""

    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(Struct, kw_only=True):
    """OpenAI's `response_format`."""

    type: str = "text"
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
    structural_tag: Any = None


class Sampling(GuidedFields, kw_only=True):
    """The fields that every way of asking for text shares."""

    model: str | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    seed: int | None = None
    stop: StopString | Stops | None = None
    repetition_penalty: Factor | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Biases | BiasPairs | None = None
    """By token id, or by a text, of whose tokens each is meant; false forbids. The list is llama.cpp's."""
    bad_words: StopString | Stops | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Count | None = None
    stop_token_ids: Annotated[list[int], Meta(max_length=64)] | None = None
    lookahead: Annotated[list[Count], Meta(min_length=3, max_length=3)] | bool | None = None
    """(w,n,g) of this request, false for plain decoding; the engine's own by default."""
    draft_tokens: Annotated[int, Meta(ge=0, le=MOST_DRAFTS)] | None = None
    """The portable engine drafts up to so many tokens per step by matching suffixes, in place of lookahead."""
    t_max_predict_ms: Milliseconds | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    nvext: GuidedFields | None = None
    json_schema: JsonSchema | None = None
    """llama.cpp's."""
    grammar: str | None = None
    """GBNF, llama.cpp's."""

    @property
    def stops(self) -> tuple[str, ...]:
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in found if stop)

    @property
    def predict_seconds(self) -> float | None:
        return self.t_max_predict_ms / 1000 if self.t_max_predict_ms and self.t_max_predict_ms > 0 else None

    @property
    def asked_lookahead(self) -> LookaheadConfig | None:
        """Raises `ApiError` for an illegal combination."""
        if self.lookahead is not None and self.draft_tokens is not None:
            text = "lookahead and draft_tokens are two ways to draft: send one of them"
            raise ApiError(400, text, "invalid_lookahead", "draft_tokens")
        if isinstance(self.lookahead, list):
            try:
                return LookaheadConfig(*self.lookahead)
            except LookaheadError as error:
                raise ApiError(400, str(error), "invalid_lookahead", "lookahead") from None
        return PLAIN if self.lookahead is False else None


class OpenAISampling(Sampling, kw_only=True):
    """What chat and completions share."""

    max_tokens: Length | None = None
    n_predict: Length | None = None
    """llama.cpp's name, where nothing else says it; 0 warms the cache."""
    n: Copies | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | Alternatives | None = None
    return_token_ids: bool | None = None
    """The token ids of every chunk too, and one chunk per decoding step (vLLM's name)."""

    @property
    def wanted_tokens(self) -> int | None:
        """The longest answer that is asked for; None leaves it to the route."""
        return self.n_predict if self.max_tokens is None else self.max_tokens

    @property
    def wants_log_probs(self) -> bool:
        """0 asks for the chosen tokens' alone."""
        return self.logprobs is not None and self.logprobs is not False

    @property
    def alternatives(self) -> int:
        """Of how many of the most likely tokens the log probabilities are wanted beside the chosen one's."""
        return 0 if self.logprobs is None or isinstance(self.logprobs, bool) else self.logprobs

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's own log probabilities are wanted."""
        return False

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_continuous_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)


class ContextText(Struct, kw_only=True):
    """llama.cpp's `input_extra` element."""

    text: str = ""
    filename: str | None = None


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
    def scores_prompt(self) -> bool:
        return bool(self.echo) and self.wants_log_probs


class ContentPart(Struct, kw_only=True):
    """A part of a message's content."""

    type: str = "text"
    text: str | None = None
    refusal: str | None = None
    """What an assistant said instead of a text."""


class FunctionCall(Struct, kw_only=True):
    """A call that the assistant made: OpenAI has the arguments as text, some clients as an object."""

    name: str = ""
    arguments: str | dict[str, Any] | None = "{}"


class ToolCall(Struct, kw_only=True):
    """A message's `tool_calls` element."""

    function: FunctionCall
    id: str | None = None


class Message(Struct, kw_only=True):
    """One message of a chat."""

    role: str
    content: str | list[ContentPart | str] | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    """What `tool_calls` were before there were several."""

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

    function: Function
    type: str = "function"

    def as_json(self) -> dict[str, Any]:
        """As the prompt shows it."""
        f = self.function
        shown = {"name": f.name, "description": f.description, "parameters": f.parameters, "strict": f.strict}
        return {"type": "function", "function": {key: value for key, value in shown.items() if value is not None}}


class ChatRequest(OpenAISampling, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: Length | None = None
    top_logprobs: Alternatives | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = None
    """What `tools` were before there were other kinds; counts where there are none."""
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
    def is_legacy(self) -> bool:
        """Whether functions are offered by their older name."""
        return bool(self.functions) and not self.tools

    @property
    def offered(self) -> list[Tool]:
        """The functions that may be called, under either name."""
        return [Tool(function=function) for function in self.functions or []] if self.is_legacy else self.tools or []

    @property
    def choice(self) -> str | dict[str, Any] | None:
        """Which of them must be, in the shape of `tool_choice`."""
        if not self.is_legacy:
            return self.tool_choice
        return {"function": self.function_call} if isinstance(self.function_call, dict) else self.function_call


class FimRequest(OpenAISampling, kw_only=True):
    """`POST /v1/fim/completions`, Mistral's."""

    prompt: str
    suffix: str | None = None
    random_seed: int | None = None


class InfillRequest(Sampling, kw_only=True):
    """`POST /infill` and `POST /completion`, llama.cpp's."""

    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: list[ContextText] | None = None
    prompt: LlamaPrompt | None = None
    n_predict: Length | None = None
    max_tokens: Length | None = None
    """OpenAI's name for it."""
    n_cmpl: Copies | None = None
    repeat_penalty: Factor | None = None
    return_tokens: bool | None = None
    response_fields: list[str] | None = None
    repo_name: str | None = None
    filename: str | None = None

    @property
    def wanted_tokens(self) -> int | None:
        """The longest answer that is asked for: -1 is as much as fits, 0 only warms the cache."""
        return self.max_tokens if self.n_predict is None else self.n_predict


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


Body = TypeVar("Body", bound=Struct)
DECODERS: dict[type[Struct], msgspec.json.Decoder[Any]] = {}


def whole(number: str) -> int | float:
    """A number of JSON as the integer that it is, if it is one: Lua and others write 16 as 16.0."""
    value = float(number)
    return int(value) if value.is_integer() else value


LENIENT = msgspec.json.Decoder(float_hook=whole)


def decode(kind: type[Body], body: bytes) -> Body:
    """Reads a request's JSON; raises `ApiError` 400 naming the field."""
    with json_errors():
        return read(kind, body)


@contextmanager
def json_errors() -> Iterator[None]:
    """Raises `ApiError` 400 for JSON that is none, or not what was wanted."""
    try:
        yield
    except msgspec.ValidationError as error:
        _, _, place = str(error).partition(" - at `$.")
        raise ApiError(400, str(error), "invalid_type", place.rstrip("`") or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", "invalid_json") from None


def read(kind: type[Body], body: bytes) -> Body:
    """Reads it once as it should be, and again where a number was in the way of an integer."""
    decoder = DECODERS.get(kind)
    if decoder is None:
        decoder = DECODERS[kind] = msgspec.json.Decoder(kind)
    try:
        value: Body = decoder.decode(body)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
        value = msgspec.convert(LENIENT.decode(body), kind)
    return value
