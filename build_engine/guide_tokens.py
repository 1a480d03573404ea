"""What TensorRT-LLM's guided decoding knows of a tokenizer, as the C++ backend reads it.

Format: `getGuidedDecodingConfigFromParams` in inflight_batcher_llm/src/model_instance_state.cc of tensorrtllm_backend
v0.19.0, which its docs/guided_decoding.md has written by TensorRT-LLM's generate_xgrammar_tokenizer_info.py.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer

from build_engine.control_tokens import ControlTokens

GUIDE_TOKENS = "xgrammar_tokenizer_info.json"
"""Lies beside the tokenizer of an artefact whose engine can be guided."""


def write_guide_tokens(tokenizer: Path) -> None:
    """Writes the file into the directory of a tokenizer.

    Each token stands at its id, as tokenizer.json spells it. Control tokens are empty, so that none can stand in an
    answer; those that end one are told apart. NVIDIA's script names one of these, Qwen2.5 Instruct has two.
    """
    text = (tokenizer / "tokenizer.json").read_text(encoding="utf-8")
    loaded = Tokenizer.from_str(text)
    vocabulary = loaded.get_vocab(with_added_tokens=True)
    special = {i for i, token in loaded.get_added_tokens_decoder().items() if token.special}
    tokens = [""] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        if number not in special:
            tokens[number] = token
    ends = ControlTokens(tokenizer, vocabulary.get).end_ids
    info = {"encoded_vocab": tokens, "tokenizer_str": text, "stop_token_ids": ends}
    (tokenizer / GUIDE_TOKENS).write_text(json.dumps(info), encoding="utf-8")
