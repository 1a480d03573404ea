"""What the Triton models `preprocessing` and `postprocessing` compute, on NumPy arrays.

Names, dtypes and shapes: all_models/inflight_batcher_llm/{preprocessing,postprocessing} of
triton-inference-server/tensorrtllm_backend v0.19.0. Shapes below include the batch dimension B.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nimble_coder.text.element import text_of
from nimble_coder.text.tokenizer import TextTokenizer

Array = NDArray[np.generic]

UNSUPPORTED = ("DECODER_QUERY", "IMAGE_BYTES", "IMAGE_URL", "VIDEO_BYTES", "EMBEDDING_BIAS_WORDS")


def preprocess(tokenizer: TextTokenizer, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Tokenises QUERY (BYTES `[B, 1]`) into INPUT_ID (int32 `[B, longest]`, padded) and passes the rest along.

    `end_id` defaults to the checkpoint's first end id; its others become stop words, since the engine knows only one.
    Raises `ValueError` for inputs that a Qwen2 text model cannot use and for text that is not UTF-8.
    """
    given = [name for name in UNSUPPORTED if name in inputs and inputs[name].size]
    if given:
        raise ValueError(f"input {given[0]} is not supported: this model reads text and nothing else")
    prompts = [tokenizer.encode(text_of(row)) for row in inputs["QUERY"].reshape(-1)]
    batch = len(prompts)
    end_id, others = tokenizer.end_ids[0], [[i] for i in tokenizer.end_ids[1:]]
    stop_words = [[*words, *others] for words in word_lists(tokenizer, inputs.get("STOP_WORDS_DICT"), batch)]
    bad_words = word_lists(tokenizer, inputs.get("BAD_WORDS_DICT"), batch)
    nothing = np.zeros((batch, 0))
    return {
        "INPUT_ID": padded(prompts, tokenizer.pad_id),
        "REQUEST_INPUT_LEN": np.array([[len(ids)] for ids in prompts], np.int32),
        "DECODER_INPUT_ID": nothing.astype(np.int32),
        "REQUEST_DECODER_INPUT_LEN": np.zeros((batch, 1), np.int32),
        "BAD_WORDS_IDS": word_tensor(bad_words),
        "STOP_WORDS_IDS": word_tensor(stop_words),
        "EMBEDDING_BIAS": nothing.astype(np.float32),
        "REQUEST_OUTPUT_LEN": inputs["REQUEST_OUTPUT_LEN"],
        "OUT_END_ID": inputs.get("END_ID", np.full((batch, 1), end_id, np.int32)),
        "OUT_PAD_ID": inputs.get("PAD_ID", np.full((batch, 1), tokenizer.pad_id, np.int32)),
        "OUT_PROMPT_TABLE_EXTRA_IDS": nothing.astype(np.uint64),
    }


def postprocess(tokenizer: TextTokenizer, tokens: Array, lengths: Array, skip_special: bool) -> Array:
    """Texts (BYTES `[B * beams]`) of TOKENS_BATCH (int32 `[B, beams, n]`), as long as SEQUENCE_LENGTH `[B, beams]`.

    Each call stands alone, so a character split over two streamed responses shows as U+FFFD in both: clients that
    stream through the ensemble have to live with that, those that read token ids do not. Raises `ValueError` for a
    negative id or length, and where there is not a length for each row; ids behind the vocabulary have no text.
    """
    if lengths.size and lengths.min() < 0:
        raise ValueError(f"SEQUENCE_LENGTH holds {lengths.min()}, which is out of range: lengths go from 0 on")
    rows = [row for beams in tokens for row in beams]  # a row without tokens too: an end id that comes alone is none
    if len(rows) != lengths.size:
        raise ValueError(f"SEQUENCE_LENGTH holds {lengths.size}, out of range: TOKENS_BATCH has {len(rows)} rows")
    shown = [row[:length].tolist() for row, length in zip(rows, lengths.reshape(-1), strict=True)]
    least = min((min(ids) for ids in shown if ids), default=0)
    if least < 0:
        raise ValueError(f"TOKENS_BATCH holds {least}, which is out of range: token ids go from 0 on")
    return np.array([tokenizer.decode(ids, skip_special).encode() for ids in shown], dtype=np.object_)


def word_lists(tokenizer: TextTokenizer, words: Array | None, batch: int) -> list[list[list[int]]]:
    """Per prompt, the token ids of its words; `words` is BYTES `[B, n]`, padded with empty strings."""
    if words is None:
        return [[] for _ in range(batch)]
    return [[tokenizer.encode(text_of(word)) for word in row if text_of(word)] for row in words.reshape(batch, -1)]


def word_tensor(words: list[list[list[int]]]) -> Array:
    """TensorRT-LLM's word lists, int32 `[B, 2, n]`: ids end to end, and below them where each word ends; -1 pads."""
    flat = [[token for word in row for token in word] for row in words]
    ends = [np.cumsum([len(word) for word in row], dtype=np.int32).tolist() for row in words]
    length = max((len(ids) for ids in flat), default=0)
    fill = np.full((len(words), 2, length), -1, np.int32)
    for row, (ids, offsets) in enumerate(zip(flat, ends, strict=True)):
        fill[row, 0, : len(ids)] = ids
        fill[row, 1, : len(offsets)] = offsets
    # The ids of a padded row are 0, only its offsets are -1.
    fill[:, 0][fill[:, 0] == -1] = 0
    return fill


def padded(rows: list[list[int]], value: int) -> Array:
    """int32 `[rows, longest]`, shorter rows filled up with `value` on the right."""
    array = np.full((len(rows), max(len(row) for row in rows)), value, np.int32)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array
