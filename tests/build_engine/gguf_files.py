"""GGUF files of Qwen2, written by llama.cpp's own library as its converter writes them."""

import json
from pathlib import Path
from typing import Any

import gguf
from gguf.constants import GGMLQuantizationType
from safetensors.torch import load_file

from build_engine.gguf.model import gguf_name


def write_gguf(checkpoint: Path, path: Path, matrices: str = "F32", **changes: Any) -> Path:
    """A checkpoint with the embedded model's tokenizer as a GGUF file.

    `matrices` is their format. `changes` replace metadata: two underscores are a key's dot, None removes the key.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    architecture = changes.pop("general__architecture", "qwen2")
    writer = gguf.GGUFWriter(path, architecture)
    metadata = {**_model(config), **_tokenizer(checkpoint, config["vocab_size"])}
    for key, value in {**metadata, **{name.replace("__", "."): value for name, value in changes.items()}}.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        values = tensor.float().numpy()
        kind = GGMLQuantizationType[matrices if values.ndim == 2 else "F32"]
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _model(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "qwen2.block_count": config["num_hidden_layers"],
        "qwen2.context_length": config["max_position_embeddings"],
        "qwen2.embedding_length": config["hidden_size"],
        "qwen2.feed_forward_length": config["intermediate_size"],
        "qwen2.attention.head_count": config["num_attention_heads"],
        "qwen2.attention.head_count_kv": config["num_key_value_heads"],
        "qwen2.rope.freq_base": float(config.get("rope_parameters", config)["rope_theta"]),
        "qwen2.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
    }


def _tokenizer(checkpoint: Path, vocab_size: int) -> dict[str, Any]:
    """As convert_hf_to_gguf.py does: what looks special is a control token, and rows without a token are unused."""
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    tokens = [*sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)]
    types = [1] * len(tokens)
    for added in tokenizer["added_tokens"]:
        tokens.append(added["content"])
        types.append(3 if added["special"] or added["content"].startswith("<|") else 4)
    unused = range(len(tokens), vocab_size)
    ends = json.loads((checkpoint / "generation_config.json").read_text())["eos_token_id"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [*tokens, *(f"[PAD{index}]" for index in unused)],
        "tokenizer.ggml.token_type": [*types, *(5 for _ in unused)],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in tokenizer["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": ends[0],
        "tokenizer.ggml.padding_token_id": ends[1],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": settings["chat_template"],
    }
