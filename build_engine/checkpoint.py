"""A Qwen2 checkpoint in Hugging Face layout: found whole and described, or refused with the reason."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from build_engine.exit_codes import ExitCode


class CheckpointError(ValueError):
    """The directory is not a Qwen2 checkpoint that can be served; says what is missing or wrong."""

    exit_code = ExitCode.CHECKPOINT


@dataclass(frozen=True)
class ModelShape:
    """What determines the computation: `config.json` of a Qwen2ForCausalLM, in its own names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ModelShape":
        """Reads a Hugging Face `config.json`; raises `CheckpointError` for what this project cannot run."""
        architectures = config.get("architectures") or []
        if "Qwen2ForCausalLM" not in architectures:
            raise CheckpointError(f"architecture {architectures} is not served; this is for Qwen2ForCausalLM only")
        rope = config.get("rope_parameters") or {}  # the name since transformers 5
        scaling = config.get("rope_scaling") or {}
        kind = rope.get("rope_type") or scaling.get("rope_type") or scaling.get("type") or "default"
        if kind != "default":
            raise CheckpointError(f"RoPE scaling {kind!r} is not supported; remove rope_scaling from config.json")
        if config.get("use_sliding_window"):
            raise CheckpointError("sliding-window attention is not supported; set use_sliding_window to false")
        if config.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"activation {config['hidden_act']!r} is not Qwen2's silu")
        try:
            heads = int(config["num_attention_heads"])
            shape = cls(
                vocab_size=int(config["vocab_size"]),
                hidden_size=int(config["hidden_size"]),
                intermediate_size=int(config["intermediate_size"]),
                num_hidden_layers=int(config["num_hidden_layers"]),
                num_attention_heads=heads,
                num_key_value_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
                rms_norm_eps=float(config["rms_norm_eps"]),
                rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
                max_position_embeddings=int(config["max_position_embeddings"]),
                tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            )
        except KeyError as missing:
            raise CheckpointError(f"config.json lacks {missing}") from None
        if shape.num_attention_heads % shape.num_key_value_heads:
            raise CheckpointError("num_attention_heads is not a multiple of num_key_value_heads")
        return shape

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor name that the checkpoint must hold, with its shape (rows are output features)."""
        h, i, d = self.hidden_size, self.intermediate_size, self.head_dim
        q, kv = self.num_attention_heads * d, self.num_key_value_heads * d
        yield "model.embed_tokens.weight", (self.vocab_size, h)
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            yield prefix + "input_layernorm.weight", (h,)
            for name, rows in (("q", q), ("k", kv), ("v", kv)):
                yield prefix + f"self_attn.{name}_proj.weight", (rows, h)
                yield prefix + f"self_attn.{name}_proj.bias", (rows,)
            yield prefix + "self_attn.o_proj.weight", (h, q)
            yield prefix + "post_attention_layernorm.weight", (h,)
            yield prefix + "mlp.gate_proj.weight", (i, h)
            yield prefix + "mlp.up_proj.weight", (i, h)
            yield prefix + "mlp.down_proj.weight", (h, i)
        yield "model.norm.weight", (h,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, h)


@dataclass(frozen=True)
class Checkpoint:
    """A validated checkpoint directory. Make one with `Checkpoint.open`."""

    directory: Path
    shape: ModelShape
    weight_files: dict[str, str]
    """Tensor name to the file that holds it."""

    @classmethod
    def open(cls, directory: Path) -> "Checkpoint":
        """Checks layout, configuration, and every tensor's name and shape without reading the weights.

        Raises `CheckpointError` naming the first thing that is wrong.
        """
        if not directory.is_dir():
            raise CheckpointError(f"{directory} is not a directory: give the folder that holds config.json")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            if not (directory / name).is_file():
                raise CheckpointError(f"{directory} lacks {name}; download the whole checkpoint")
        shape = ModelShape.from_config(read_json(directory / "config.json"))
        files = _weight_files(directory)
        checkpoint = cls(directory, shape, files)
        checkpoint._check_tensors()
        return checkpoint

    @property
    def name(self) -> str:
        """What it is called: its directory's name, or in a cache of huggingface_hub its repository's."""
        place = self.directory.absolute()
        if place.parent.name == "snapshots":
            place = Path(place.parents[1].name.rpartition("--")[2])
        return re.sub(r"[^A-Za-z0-9._-]+", "-", place.name).strip("-.") or "checkpoint"

    @cached_property
    def tokenizer_files(self) -> list[Path]:
        """The files a tokenizer is loaded from, generation defaults included where there are any."""
        names = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
        return [self.directory / name for name in names if (self.directory / name).is_file()]

    @cached_property
    def files(self) -> list[Path]:
        """Every file that determines the result, sorted by name."""
        names = {*self.weight_files.values(), "config.json", *(f.name for f in self.tokenizer_files)}
        return [self.directory / name for name in sorted(names)]

    def _check_tensors(self) -> None:
        expected = dict(self.shape.tensors())
        for file in sorted({*self.weight_files.values()}):
            try:
                with safe_open(self.directory / file, framework="numpy") as tensors:
                    for name in tensors.keys():  # noqa: SIM118 - not a mapping
                        found = tuple(tensors.get_slice(name).get_shape())
                        if name in expected and found != expected[name]:
                            raise CheckpointError(
                                f"{file}: {name} has shape {list(found)}, config.json says {list(expected[name])}"
                            )
            except (OSError, SafetensorError) as error:
                raise unreadable(self.directory / file, error) from None
        absent = [name for name in expected if name not in self.weight_files]
        if absent:
            raise CheckpointError(f"{self.directory} lacks {len(absent)} tensors, the first is {absent[0]}")


def unreadable(path: Path, error: Exception) -> "CheckpointError":
    """What to do about a weight file; safetensors says "No such file" of one that belongs to somebody else."""
    if path.exists() and not os.access(path, os.R_OK):
        return CheckpointError(f"{path} may not be read by user {os.geteuid()}: chmod a+r {path}")
    return CheckpointError(f"{path} cannot be read, download it again: {error}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises `CheckpointError` where it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _weight_files(directory: Path) -> dict[str, str]:
    """Tensor name to file name, from the shard index or from the one file there is."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        files = {str(k): str(v) for k, v in read_json(index).get("weight_map", {}).items()}
        gone = sorted({name for name in files.values() if not (directory / name).is_file()})
        if gone:
            raise CheckpointError(f"{directory} lacks {len(gone)} weight files, the first is {gone[0]}")
        return files
    single = directory / "model.safetensors"
    if not single.is_file():
        raise CheckpointError(f"{directory} holds no model.safetensors; weights must be in safetensors format")
    try:
        with safe_open(single, framework="numpy") as tensors:
            return dict.fromkeys(tensors.keys(), single.name)
    except (OSError, SafetensorError) as error:
        raise unreadable(single, error) from None
