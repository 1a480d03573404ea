"""llama.cpp as a peer: a checkpoint in its own format, and its decoding loop called as closely as its C interface goes.

Needs `pip install -e '.[peers]'`, which builds llama.cpp from its source package. Layout: gguf-py's `GGUFWriter`.
"""

import ctypes
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import gguf
import numpy as np
from safetensors.torch import load_file

from build_engine.gguf.model import gguf_name

FORMATS = ("F16", "BF16")


def write_gguf(checkpoint: Path, kind: str, path: Path) -> None:
    """Writes a Hugging Face checkpoint of Qwen2 in one file as GGUF, without its tokenizer."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    rope = config.get("rope_parameters", config)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        values = tensor.float().numpy()
        matrix_type = gguf.GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, matrix_type), raw_dtype=matrix_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """A loaded model. Raises `ImportError` where llama.cpp is not installed."""

    def __init__(self, path: Path, threads: int, drafts: int = 0) -> None:
        """`drafts`: the tokens of a draft by prompt lookup, llama-cpp-python's own way to draft without a model."""
        import llama_cpp  # noqa: PLC0415
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding  # noqa: PLC0415

        self._api = llama_cpp
        self._drafts = drafts
        self._model = llama_cpp.Llama(
            str(path),
            n_ctx=2048,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
            logits_all=False,
            draft_model=LlamaPromptLookupDecoding(num_pred_tokens=drafts) if drafts else None,
        )

    def generate(self, ids: list[int], count: int) -> list[int]:
        """`count` greedy tokens behind a prompt that is computed anew."""
        return list(islice(self.tokens(ids), count))

    def tokens(self, ids: list[int]) -> Iterator[int]:
        """Greedy tokens behind a prompt that is computed anew, without an end."""
        self._model.reset()
        if self._drafts:
            yield from self._model.generate(ids, temp=0.0)
        self._model.eval(ids)
        while True:
            yield (found := self._choice())
            token = (ctypes.c_int32 * 1)(found)
            if self._api.llama_decode(self._model.ctx, self._api.llama_batch_get_one(token, 1)):
                raise RuntimeError("llama.cpp cannot decode")

    def _choice(self) -> int:
        logits = self._api.llama_get_logits_ith(self._model.ctx, -1)
        return int(np.ctypeslib.as_array(logits, (self._model.n_vocab(),)).argmax())
