"""What a request says of single tokens: biases, and words that must not come. Both become token ids here.

`logit_bias`: OpenAI's map by token id; llama.cpp's pairs, in which a text stands for each of its tokens and false
forbids. `bad_words`: vLLM's, of which each is meant with and without a blank before it.
"""

import json
import re
from collections.abc import Callable, Iterator

from nimble_coder.contract.bounds import BIAS
from nimble_coder.contract.fields import DRAFTING
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.sampling import given_numbers
from nimble_coder.gateway.requests.schemas.sampling import OpenAISampling, SamplingFields

ID = re.compile(r"-?[0-9]{1,4000}")
"""As many digits as Python reads."""
Encode = Callable[[str], list[int]]
MOST_BIAS_TEXT = 16_384
"""Characters of all texts in a `logit_bias`, which take about 5 ms to tokenise."""


def biases_of(asked: SamplingFields, encode: Encode, vocab_size: int) -> dict[int, float]:
    """Biases by token id; raises `ApiError` for an id that is none, and for too much text."""
    size = sum(len(token) for token, _ in pairs_of(asked) if isinstance(token, str) and not ID.fullmatch(token))
    if size > MOST_BIAS_TEXT:
        text = f"logit_bias has texts of {size} characters, {MOST_BIAS_TEXT} is the limit: send fewer, or token ids"
        raise ApiError(400, text, "invalid_input", "logit_bias")
    biases: dict[int, float] = {}
    for token, bias in pairs_of(asked):
        value = 0.0 if bias is True else BIAS.least if bias is False else bias
        for i in ids_of(token, encode):
            if not 0 <= i < vocab_size:
                text = f"logit_bias names the token {str(i)[:40]}: ids go from 0 to {vocab_size - 1}"
                raise ApiError(400, text, "invalid_token_id", "logit_bias")
            biases[i] = value
    return biases


def pairs_of(asked: SamplingFields) -> Iterator[tuple[int | str, float | bool]]:
    """What `logit_bias` holds, in either form."""
    if isinstance(asked.logit_bias, dict):
        yield from asked.logit_bias.items()
    else:
        yield from asked.logit_bias or []


def ids_of(token: int | str, encode: Encode) -> list[int]:
    """The tokens that a key of `logit_bias` stands for."""
    if isinstance(token, int):
        return [token]
    return [int(token)] if ID.fullmatch(token) else encode(token)


def bad_words_of(asked: SamplingFields, encode: Encode) -> tuple[tuple[int, ...], ...]:
    """The token sequences that must not be completed, each once."""
    words = [asked.bad_words] if isinstance(asked.bad_words, str) else asked.bad_words or []
    spelled = [spelling for word in words if word for spelling in (word, f" {word.lstrip()}")]
    return tuple(dict.fromkeys(tuple(encode(spelling)) for spelling in spelled))


def parameters_of(asked: SamplingFields, encode: Encode, vocab_size: int) -> tuple[tuple[str, str | float], ...]:
    """What the portable engine takes as request parameters, by name."""
    biases = biases_of(asked, encode, vocab_size)
    bias: tuple[tuple[str, str | float], ...] = (("logit_bias", json.dumps(biases)),) if biases else ()
    found = [*bias, (DRAFTING, asked.drafting)] if asked.drafting else [*bias]
    found += [(scalar.name, float(value)) for scalar, value in given_numbers(asked) if scalar.datatype is None]
    if isinstance(asked, OpenAISampling) and asked.wants_log_probs:
        found += [("top_logprobs", float(asked.alternatives))] if asked.alternatives else []
        found += [("prompt_logprobs", 1.0)] if asked.scores_prompt else []
    return tuple(found)
