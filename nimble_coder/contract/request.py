"""A request to an engine, with how it samples; names as in TensorRT-LLM where it has one."""

from dataclasses import dataclass, field, fields
from enum import Enum

from build_engine.lookahead import LookaheadConfig
from nimble_coder.contract.bounds import (
    BIAS,
    COUNT,
    FACTOR,
    FLAG,
    GREEDY_BELOW,
    MOST_TOP,
    PENALTY,
    SHARE,
    TEMPERATURE,
    Bounds,
)
from nimble_coder.contract.scalar import Effect, Scalar, parameter, tensor

LOGITS, CUT = Effect.LOGITS, Effect.CUT


class RequestError(ValueError):
    """A request that the engine cannot take as it is; the client has to change it."""


class QueueFullError(RuntimeError):
    """The queue is full; the same request may pass later."""

    def __init__(self, limit: int) -> None:
        # TensorRT-LLM's own words, which front ends recognise.
        super().__init__(f"Maximum queue size of {limit} has been reached, please try again later")


def check_range(name: str, value: float, bounds: Bounds) -> None:
    """Raises `RequestError` naming the number."""
    if not bounds.hold(value):
        raise RequestError(f"{name} is {value}, which is out of range: send {bounds}")


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen where greedy decoding is not wanted as it is. Names as in TensorRT-LLM's SamplingConfig.

    A number is declared here once: on its way, in the gateway's table of fields and in the engine it goes by this line.
    Drafts are taken where they are what plain decoding draws. Raises `RequestError` for values out of range.
    """

    temperature: float = tensor("temperature", "FP32", 1.0, TEMPERATURE)
    """0, or anything less than `GREEDY_BELOW`, chooses greedily, after the penalties."""
    top_k: int = tensor("runtime_top_k", "INT32", 0, COUNT, CUT)
    """Only the k most likely tokens; 0: all."""
    top_p: float = tensor("runtime_top_p", "FP32", 1.0, SHARE, CUT)
    """Only the most likely tokens that together have this probability."""
    min_p: float = parameter("min_p", 0.0, SHARE, CUT, "vLLM", 0.1)
    """Only tokens at least this times as likely as the most likely one."""
    repetition_penalty: float = tensor("repetition_penalty", "FP32", 1.0, FACTOR, LOGITS, "vLLM", 1.1)
    """Divides positive and multiplies negative logits of tokens that occurred, in the prompt or the output."""
    presence_penalty: float = tensor("presence_penalty", "FP32", 0.0, PENALTY, LOGITS, "OpenAI", 0.5)
    """Subtracted from the logits of tokens that occurred in the output."""
    frequency_penalty: float = tensor("frequency_penalty", "FP32", 0.0, PENALTY, LOGITS, "OpenAI", 0.5)
    """Subtracted from those logits once for each occurrence."""
    min_tokens: int = tensor("min_length", "INT32", 0, COUNT)
    """Neither the end id nor a stop word of one token can be chosen before this many tokens, nor does a longer one end
    it before."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Token sequences that are never completed."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit); the least that is allowed forbids the token."""
    log_probs: bool = tensor("return_log_probs", "BOOL", False, FLAG)
    """Responses tell the log probability of each token, before temperature, penalties and cuts."""
    top_log_probs: int = parameter("top_logprobs", 0, Bounds(0, MOST_TOP))
    """With it those of so many most likely tokens in its place."""
    prompt_log_probs: bool = parameter("prompt_logprobs", False, FLAG)
    """The first response tells the same of every token of the prompt but the first."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if scalar := each.metadata.get(Scalar):
                check_range(scalar.name, getattr(self, each.name), scalar.bounds)
        if not self.top_p:
            raise RequestError(f"runtime_top_p is {self.top_p}, which is out of range: send more than 0, up to 1")
        for token, bias in self.logit_bias:
            check_range(f"logit_bias of {token}", bias, BIAS)

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is chosen, after the penalties."""
        return self.temperature < GREEDY_BELOW or self.top_k == 1


class GuideType(Enum):
    """What kind of text describes a form. Those of TensorRT-LLM's `GuidedDecodingParams` have its contract's names."""

    JSON = "json"
    """Any JSON object; the text is empty."""
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    """The whole output matches it."""
    EBNF_GRAMMAR = "ebnf_grammar"
    """GBNF, llama.cpp's."""
    LARK = "lark"
    """Lark's syntax as llguidance reads it; not in the contract."""
    CHOICE = "choice"
    """One of the texts in a JSON list; not in the contract."""


@dataclass(frozen=True)
class Guide:
    """A form that the output is held to."""

    type: GuideType
    text: str


MOST_GUIDE = 65_536
"""Characters of a form: a schema of so many is compiled in less than a second."""
FORM_NAME = "the form (guided_decoding_guide)"
"""As an engine's errors call it: by the contract's name too, since an engine does not know what a client has sent."""
WRONG_SCHEMA = "has a schema that is not supported in its rule"
"""What is said of a form in Lark, before the name of the rule and what is wrong."""


@dataclass(frozen=True)
class Request:
    """One prompt to continue, greedily unless it says how to sample."""

    input_ids: list[int]
    max_tokens: int
    end_id: int | None = None
    """Ends the generation and is not part of the output."""
    stop_words: list[list[int]] = field(default_factory=list)
    """Token sequences that end the generation; the one found is the end of the output."""
    lookahead: LookaheadConfig | None = None
    """(w, n, g) for this request."""
    draft_tokens: int | None = None
    """The most draft tokens per step, by matching suffixes; takes the place of a (w, n, g). 0 is plain decoding.
    Where both are None, the engine chooses."""
    drafting: str = ""
    """Which drafter proposes them, by its name in `engine/drafter.py`. Where it is empty, the two above say it."""
    draft_pool: str = ""
    """Requests of the same name may draft from what the others held; empty: from nobody's."""
    owner: str = ""
    """Whose it is: where requests wait, owners take turns."""
    streaming: bool = True
    """Deltas as they come, or one response with everything."""
    sampling: Sampling | None = None
    guide: Guide | None = None
    """The form of the output, which ends where nothing can follow in it, and may end where the form is complete."""
    seed: int = 0
    """Makes sampling reproducible. Under lookahead it seeds the window's first tokens: other drafts, same output."""

    @property
    def ends(self) -> set[int]:
        """The tokens that end it, each by itself."""
        words = {word[0] for word in self.stop_words if len(word) == 1}
        return words if self.end_id is None else words | {self.end_id}
