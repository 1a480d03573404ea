"""The tokenizer of a GGUF file as the files that Hugging Face's libraries load.

A GGUF file has the tokens, their types and the merges; what is not in it is Qwen2's own and the same for all sizes: the
normaliser, the splitting, and which added tokens are not special (`tokenizer.json` and `tokenizer_config.json` of
Qwen/Qwen2.5-Coder-7B-Instruct).
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from build_engine.checkpoint import CheckpointError
from build_engine.gguf.model import GgufModel

KEY = "tokenizer.ggml."
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""llama.cpp's `llama_token_type`."""
NOT_SPECIAL = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
)
"""Part of the text in Qwen2.5's tokenizer; llama.cpp's converter takes most of them for control tokens."""
END_OF_TEXT = "<|endoftext|>"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What llama.cpp calls the pre-tokenizer `qwen2`."""


def write_tokenizer(model: GgufModel, directory: Path) -> None:
    """Writes `tokenizer.json`, `tokenizer_config.json` and `generation_config.json`; raises `CheckpointError`."""
    tokens, added = _tokens(model)
    tokenizer = _tokenizer(model, tokens, added)
    tokenizer.save(str(directory / "tokenizer.json"))
    end = _token(model, tokens, "eos_token_id")
    pad = _token(model, tokens, "padding_token_id") if KEY + "padding_token_id" in model.headers[0].metadata else end
    config = {
        "add_bos_token": model.optional(KEY + "add_bos_token", bool, False),
        "add_prefix_space": False,
        "added_tokens_decoder": {str(index): _added(text) for index, text in added.items()},
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[end],
        "errors": "replace",
        "model_max_length": model.shape.max_position_embeddings,
        "pad_token": tokens[pad],
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    if template := model.optional("tokenizer.chat_template", str, None):
        config["chat_template"] = template
    _write(directory / "tokenizer_config.json", config)
    # An answer may end with either, as the published generation_config.json says.
    ends = [end, *(index for index, text in added.items() if text == END_OF_TEXT and index != end)]
    _write(directory / "generation_config.json", {"eos_token_id": ends, "pad_token_id": pad})


def _tokens(model: GgufModel) -> tuple[list[str], dict[int, str]]:
    """All tokens in the order of their ids, and the added ones among them by id."""
    if (kind := model.value(KEY + "model", str)) != "gpt2" or (split := model.value(KEY + "pre", str)) != "qwen2":
        found = kind if kind != "gpt2" else f"{kind} with pre-tokenizer {split}"
        raise _error(model, f"tokenizer {found[:64]!r} is not Qwen2's (gpt2 with pre-tokenizer qwen2)")
    tokens, types = _list(model, "tokens", str), _list(model, "token_type", int)
    size = model.shape.vocab_size
    if not len(tokens) == len(types) <= size:
        raise _error(model, f"{len(tokens)} tokens, {len(types)} token types, and rows of the embedding for {size}")
    if strange := sorted({*types} - {NORMAL, CONTROL, USER_DEFINED, UNUSED}):
        raise _error(model, f"tokens of type {strange[0]}, which Qwen2's do not have")
    added = {index: tokens[index] for index, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)}
    normal = sum(kind == NORMAL for kind in types)
    if NORMAL in types[normal:] or [*added] != [*range(normal, normal + len(added))]:
        raise _error(model, "ids of text, added and unused tokens that do not follow each other")
    tokens = tokens[: normal + len(added)]
    if len({*tokens}) < len(tokens):
        raise _error(model, "a token that is there twice")
    return tokens, added


def _tokenizer(model: GgufModel, tokens: list[str], added: dict[int, str]) -> Tokenizer:
    vocabulary = {text: index for index, text in enumerate(tokens[: len(tokens) - len(added)])}
    merges = []
    for text in _list(model, "merges", str):
        left, _, right = text.partition(" ")
        if not (left in vocabulary and right in vocabulary and left + right in vocabulary):
            raise _error(model, f"a merge {text[:40]!r} of what are no tokens")
        merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_tokens([AddedToken(**_added(text)) for text in added.values()])
    for index, text in added.items():
        if tokenizer.token_to_id(text) != index:
            raise _error(model, f"an added token {text[:40]!r} that cannot have its id {index}")
    return tokenizer


def _added(text: str) -> dict[str, Any]:
    """An added token as `AddedToken` and `tokenizer_config.json` have it."""
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": text, **plain, "special": text not in NOT_SPECIAL}


def _list(model: GgufModel, name: str, kind: type) -> list[Any]:
    found: list[Any] = model.value(KEY + name, list)
    if not found or type(found[0]) is not kind:
        raise _error(model, f"no {name}")
    return found


def _token(model: GgufModel, tokens: list[str], name: str) -> int:
    """A token's id that the metadata name, held to the tokens there are."""
    found: int = model.value(KEY + name, int)
    if not 0 <= found < len(tokens):
        raise _error(model, f"{name} {found}, and there are {len(tokens)} tokens")
    return found


def _error(model: GgufModel, what: str) -> CheckpointError:
    return CheckpointError(f"{model.files[0]} has {what}")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
