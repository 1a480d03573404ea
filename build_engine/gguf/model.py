"""A Qwen2 model in one or several GGUF files: its configuration and its tensors in Hugging Face's names.

llama.cpp's convert_hf_to_gguf.py (`Qwen2Model`) writes such files; keys and tensor names are those of gguf-py's
constants.py.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from build_engine.checkpoint import CheckpointError, ModelShape, checked_name
from build_engine.gguf.header import Header, TensorInfo, Value, open_file

Floats = npt.NDArray[np.float32]

ARCHITECTURE = "qwen2"
KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
"""Formats of tensors that are taken: of these, what Qwen publishes consists (Q2_K to Q8_0, and F16)."""
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
"""The end of the name of one file of several, as llama.cpp's gguf-split gives it."""
ROWS_COMPARED, ALIKE = 256, 0.9
SLAB = 1 << 24
"""Values dequantised at once: 64 MiB in fp32."""


@dataclass(frozen=True)
class GgufModel:
    """All files of one model; make it with `GgufModel.open`."""

    headers: list[Header]

    @classmethod
    def open(cls, path: Path) -> "GgufModel":
        """Checks every file, the architecture, and every tensor's name and shape; reads no weights but for a few rows.

        Raises `CheckpointError` naming the first thing that is wrong.
        """
        first = Header.read(path)
        architecture = first.metadata.get("general.architecture")
        if architecture is None and "split.no" in first.metadata:
            raise CheckpointError(f"{path} is not the first file of its model: give the one that ends in 00001-of-...")
        if architecture != ARCHITECTURE:
            raise CheckpointError(
                f"{path} holds a model of architecture {str(architecture)[:64]!r}; only {ARCHITECTURE!r} is served, "
                f"which is Qwen2.5-Coder's"
            )
        model = cls([first, *map(Header.read, _further_files(path, first))])
        model._check_tensors()
        return model

    @property
    def files(self) -> list[Path]:
        return [header.path for header in self.headers]

    @property
    def name(self) -> str:
        """What it is called: its file's name without what says that it is GGUF and one of several."""
        name = PART.sub("", self.files[0].name).removesuffix(".gguf")
        return checked_name(re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "gguf")

    def value(self, key: str, kind: type) -> Any:
        """A metadata value of that type; raises `CheckpointError` where it is absent or of another type."""
        found = self._metadata.get(key)
        if type(found) is not kind:
            state = "lacks" if found is None else f"has {type(found).__name__} {str(found)[:40]!r} as"
            raise CheckpointError(f"{self.files[0]} {state} {key}, and a {kind.__name__} is needed")
        return found

    def optional(self, key: str, kind: type, default: Any) -> Any:
        """The same, where absence means something."""
        return self.value(key, kind) if key in self._metadata else default

    def positive(self, key: str, kind: type) -> Any:
        """A number of the architecture's that is above zero and finite; raises `CheckpointError`."""
        found = self.value(f"{ARCHITECTURE}.{key}", kind)
        if not 0 < found < float("inf"):
            raise CheckpointError(f"{self.files[0]} has {found} as {ARCHITECTURE}.{key}")
        return found

    @cached_property
    def shape(self) -> ModelShape:
        """Rotary base, heads and the rest, all out of the metadata."""
        return ModelShape.from_config(self.config)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The `config.json` of the same model. Raises `CheckpointError`."""
        key = ARCHITECTURE + "."
        scaling = self.optional(key + "rope.scaling.type", str, "none")
        if scaling != "none":
            raise CheckpointError(f"{self.files[0]} has RoPE scaling {scaling[:40]!r}, which is not supported")
        hidden, heads = (self.positive(name, int) for name in ("embedding_length", "attention.head_count"))
        size = self.optional(key + "attention.key_length", int, hidden // heads)
        for other in ("attention.value_length", "rope.dimension_count"):
            if self.optional(key + other, int, size) != size:
                raise CheckpointError(f"{self.files[0]}: {key}{other} is not the head's size, {size}")
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "bos_token_id": self.optional("tokenizer.ggml.bos_token_id", int, None),
            "eos_token_id": self.value("tokenizer.ggml.eos_token_id", int),
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": self.positive("feed_forward_length", int),
            "num_hidden_layers": self.positive("block_count", int),
            "num_attention_heads": heads,
            "num_key_value_heads": self.positive("attention.head_count_kv", int),
            "head_dim": size,
            # The file has fp32; the shortest decimal that gives the same is what was converted.
            "rms_norm_eps": _shortest(self.positive("attention.layer_norm_rms_epsilon", float)),
            "rope_theta": _shortest(self.positive("rope.freq_base", float)),
            "max_position_embeddings": self.positive("context_length", int),
            "tie_word_embeddings": self.is_tied,
            "torch_dtype": self.dtype,
            "use_sliding_window": False,
            "vocab_size": self._tensor(EMBEDDING).shape[0],
        }

    @cached_property
    def dtype(self) -> str:
        """What the weights are kept in: the matrices' own where all have one, else bfloat16."""
        kinds = {info.kind.name for _, info in self._tensors.values() if len(info.shape) > 1}
        return {"F32": "float32", "F16": "float16"}.get(kinds.pop() if len(kinds) == 1 else "", "bfloat16")

    @cached_property
    def is_tied(self) -> bool:
        """Whether the head is the embedding, which no key says.

        Without a head's tensor it is. Where llama.cpp quantised a tied model, both may be there, in different formats;
        then rows at equal distances are compared. Two matrices that were trained apart are not alike.
        """
        if HEAD not in self._tensors:
            return True
        head, embedding = self._tensor(HEAD), self._tensor(EMBEDDING)
        if head.shape != embedding.shape:
            return False
        step = max(1, head.shape[0] // ROWS_COMPARED)
        a, b = (
            np.concatenate([self._rows(name, row, row + 1) for row in range(0, head.shape[0], step)])
            for name in (HEAD, EMBEDDING)
        )
        with np.errstate(all="ignore"):
            return bool((a * b).sum() > ALIKE * np.sqrt((a * a).sum() * (b * b).sum()))

    def slabs(self, name: str) -> Iterator[Floats]:
        """A tensor by its name at Hugging Face in fp32, some rows at a time. Raises `CheckpointError`."""
        source = self._source(name)
        shape = self._tensor(source).shape
        rows, step = prod(shape[:-1]), max(1, SLAB // shape[-1])
        for first in range(0, rows, step):
            yield self._rows(source, first, min(rows, first + step))

    def _rows(self, source: str, first: int, last: int) -> Floats:
        header, info = self._tensors[source]
        with open_file(header.path) as file:
            file.seek(info.offset + first * info.row_bytes)
            raw = file.read((last - first) * info.row_bytes)
        if len(raw) < (last - first) * info.row_bytes:
            raise CheckpointError(f"{header.path} has become shorter while it was read")
        block = np.frombuffer(raw, np.uint8).reshape(last - first, -1)
        # Not finite what a damaged file holds: verification finds it.
        with np.errstate(all="ignore"):
            values: Floats = dequantize(_typed(block, info.kind), info.kind).astype(np.float32, copy=False)
            return values

    def _source(self, name: str) -> str:
        """A tensor's name in GGUF; of a tied pair the head, which llama.cpp quantises less."""
        if name == "model.embed_tokens.weight":
            return HEAD if self.is_tied and HEAD in self._tensors else EMBEDDING
        return gguf_name(name)

    def _check_tensors(self) -> None:
        expected = 0
        for name, shape in self.shape.tensors():  # lazily: a number of layers may be absurd
            expected += 1
            info = self._tensor(self._source(name))
            if info.shape != shape:
                raise CheckpointError(
                    f"{self.files[0]}: {info.name} has shape {list(info.shape)}, its metadata say {list(shape)}"
                )
        # A tied pair has a tensor more; a rotary table (Llama 3's rope_freqs) or experts would change the result.
        if len(self._tensors) > expected + (self.is_tied and HEAD in self._tensors):
            known = {self._source(name) for name, _ in self.shape.tensors()} | {EMBEDDING}
            raise CheckpointError(
                f"{self.files[0]} has tensors that Qwen2 does not have, one is {min({*self._tensors} - known)!r}"
            )

    def _tensor(self, source: str) -> TensorInfo:
        if source not in self._tensors:
            raise CheckpointError(f"{self.files[0]} lacks the tensor {source}")
        return self._tensors[source][1]

    @property
    def _metadata(self) -> dict[str, Value]:
        return self.headers[0].metadata

    @cached_property
    def _tensors(self) -> dict[str, tuple[Header, TensorInfo]]:
        found: dict[str, tuple[Header, TensorInfo]] = {}
        for header in self.headers:
            for name, info in header.tensors.items():
                if name in found:
                    raise CheckpointError(f"{header.path} has the tensor {name}, which another file of the model has")
                if info.kind.name not in KINDS:
                    raise CheckpointError(
                        f"{header.path}: {name} is in {info.kind.name}; the formats taken are {', '.join(KINDS)}"
                    )
                found[name] = header, info
        return found


def gguf_name(name: str) -> str:
    """What a tensor of Hugging Face's Qwen2 is called in GGUF."""
    module, kind = name.rsplit(".", 1)
    if module in NAMES:
        return f"{NAMES[module]}.{kind}"
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def _further_files(path: Path, first: Header) -> list[Path]:
    """The other files of a model that is in several; raises `CheckpointError` where one is missing."""
    count = first.metadata.get("split.count", 1)
    if count == 1:
        return []
    named = PART.search(path.name)
    if not named or int(named[1]) != 1 or int(named[2]) != count or first.metadata.get("split.no") != 0:
        raise CheckpointError(f"{path} is one of {count!s:.20} files: keep their names, and give the first of them")
    further = [path.with_name(PART.sub(f"-{n:05}-of-{named[2]}.gguf", path.name)) for n in range(2, int(named[2]) + 1)]
    for other in further:
        if not other.is_file():
            raise CheckpointError(f"{other} is missing: {path.name} is the first of {count} files")
    return further


def _typed(block: npt.NDArray[np.uint8], kind: GGMLQuantizationType) -> npt.NDArray[Any]:
    """Bytes as `dequantize` wants them: of F32 and F16 the numbers, else bytes."""
    plain = {"F32": np.float32, "F16": np.float16}.get(kind.name)
    return block.view(plain) if plain else block


def _shortest(value: float) -> float:
    return float(str(np.float32(value)))
