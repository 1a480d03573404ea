"""A Qwen2 checkpoint in Hugging Face layout: found whole and described, or refused with the reason."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from build_engine.exit_codes import ExitCode

LONGEST_NAME = 160
"""Letters of a model's name: a file system takes 255, and an artefact is called by its profile and its key besides."""
HEAD = "lm_head.weight"
FLOATS = ("BF16", "F16", "F32", "F64")
"""What safetensors calls the types of weights that are numbers by themselves; others go with scales."""


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
        if not isinstance(architectures, list) or "Qwen2ForCausalLM" not in architectures:
            raise CheckpointError(f"architecture {architectures} is not served; this is for Qwen2ForCausalLM only")
        if (kind := config.get("model_type", "qwen2")) != "qwen2":
            raise CheckpointError(f"model_type {kind!r} is not served; this is for qwen2 only")
        if quantization := config.get("quantization_config"):
            method = quantization.get("quant_method") if isinstance(quantization, dict) else None
            raise CheckpointError(
                f"the weights are quantised ({method or 'quantization_config'}), which is not read: give the original "
                f"checkpoint, which --precision quantises, or a GGUF file"
            )
        if config.get("use_sliding_window"):
            raise CheckpointError("sliding-window attention is not supported; set use_sliding_window to false")
        if config.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"activation {config['hidden_act']!r} is not Qwen2's silu")
        tied = config.get("tie_word_embeddings") or False
        if not isinstance(tied, bool):
            raise CheckpointError(f"config.json has {tied!r:.40} as tie_word_embeddings, and true or false is needed")
        hidden, heads = _whole(config, "hidden_size"), _whole(config, "num_attention_heads")
        shape = cls(
            vocab_size=_whole(config, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_whole(config, "intermediate_size"),
            num_hidden_layers=_whole(config, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=_whole(config, "num_key_value_heads", heads),
            head_dim=_whole(config, "head_dim", hidden // heads),
            rms_norm_eps=_positive(config, "rms_norm_eps"),
            rope_theta=_rotary_base(config),
            max_position_embeddings=_whole(config, "max_position_embeddings"),
            tie_word_embeddings=tied,
        )
        if shape.head_dim % 2:
            raise CheckpointError(f"heads of {shape.head_dim} dimensions cannot be turned: RoPE takes them by twos")
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
            yield HEAD, (self.vocab_size, h)


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
        if (directory / "adapter_config.json").is_file() and not any(directory.glob("model*.safetensors")):
            raise CheckpointError(f"{directory} holds a LoRA adapter: merge it into its model, and save that")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            if not (directory / name).is_file():
                raise CheckpointError(f"{directory} lacks {name}; download the whole checkpoint")
        shape = ModelShape.from_config(read_json(directory / "config.json"))
        return cls(directory, shape, _checked_tensors(directory, shape))

    @property
    def name(self) -> str:
        """What it is called: its directory's name, or in a cache of huggingface_hub its repository's."""
        place = self.directory.absolute()
        if place.parent.name == "snapshots":
            place = Path(place.parents[1].name.rpartition("--")[2])
        return checked_name(re.sub(r"[^A-Za-z0-9._-]+", "-", place.name).strip("-.") or "checkpoint")

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


def checked_name(name: str) -> str:
    """A model's name, by which its directories in the cache are called; raises `CheckpointError` for too long a one."""
    if len(name) > LONGEST_NAME:
        raise CheckpointError(
            f"the model would be called {name}, which is too long by {len(name) - LONGEST_NAME} letters: give its "
            f"directory or file another name"
        )
    return name


def unreadable(path: Path, error: Exception) -> "CheckpointError":
    """What to do about a weight file; safetensors says "No such file" of one that belongs to somebody else."""
    if path.exists() and not os.access(path, os.R_OK):
        return CheckpointError(f"{path} may not be read by user {os.geteuid()}: chmod a+r {path}")
    return CheckpointError(f"{path} cannot be read, download it again: {error}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises `CheckpointError` where it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
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


def _checked_tensors(directory: Path, shape: ModelShape) -> dict[str, str]:
    """Tensor name to the name of the file that holds it; raises `CheckpointError` where they are not a model's."""
    files, kinds = dict[str, str](), dict[str, tuple[str, tuple[int, ...]]]()
    for file in _weight_files(directory):
        try:
            with safe_open(directory / file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    if name in files:
                        raise CheckpointError(f"{directory}: {name} is in {files[name]} and in {file}")
                    piece = tensors.get_slice(name)
                    files[name], kinds[name] = file, (piece.get_dtype(), tuple(piece.get_shape()))
        except (OSError, SafetensorError) as error:
            raise unreadable(directory / file, error) from None
    if shape.num_hidden_layers > len(files):  # a number of layers may be absurd
        raise CheckpointError(
            f"{directory} has {len(files)} tensors, config.json says {shape.num_hidden_layers} layers"
        )
    expected = dict(shape.tensors())
    for name, (dtype, size) in kinds.items():
        if name in expected and dtype not in FLOATS:
            raise CheckpointError(f"{files[name]}: {name} is in {dtype}; weights are read in {', '.join(FLOATS)}")
        if name in expected and size != expected[name]:
            raise CheckpointError(
                f"{files[name]}: {name} has shape {list(size)}, config.json says {list(expected[name])}"
            )
    if absent := [name for name in expected if name not in files]:
        raise CheckpointError(f"{directory} lacks {len(absent)} tensors, the first is {absent[0]}")
    tied = {HEAD} if shape.tie_word_embeddings else set[str]()  # a second time
    strange = sorted(name for name in {*files} - {*expected} - tied if not name.endswith(".inv_freq"))
    if strange:
        raise CheckpointError(
            f"{directory} has {len(strange)} tensors that a Qwen2 of {shape.num_hidden_layers} layers does not have, "
            f"the first is {strange[0]}: without them it would be another model"
        )
    return {name: files[name] for name in expected}


def _weight_files(directory: Path) -> list[str]:
    """The names of the files with weights, from the shard index, or of the one there is."""
    index, single = "model.safetensors.index.json", "model.safetensors"
    if (directory / index).is_file():
        weight_map = read_json(directory / index).get("weight_map")
        values = [*weight_map.values()] if isinstance(weight_map, dict) else []
        if not values or any(not isinstance(name, str) or Path(name).name != name for name in values):
            raise CheckpointError(f"{directory / index} has no weight_map of tensors to names of files beside it")
        files = sorted({*values})
        if gone := [name for name in files if not (directory / name).is_file()]:
            raise CheckpointError(f"{directory} lacks {len(gone)} weight files, the first is {gone[0]}")
        return files
    if not (directory / single).is_file():
        raise CheckpointError(f"{directory} holds no {single}; weights must be in safetensors format")
    return [single]


def _whole(config: dict[str, Any], name: str, default: int | None = None) -> int:
    """A count that `config.json` has; raises `CheckpointError` where it is none."""
    found = _given(config, name, default)
    if type(found) is not int or found < 1:
        raise CheckpointError(f"config.json has {found!r:.40} as {name}, and a whole number above 0 is needed")
    return found


def _positive(config: dict[str, Any], name: str, default: float | None = None) -> float:
    """A number above zero that `config.json` has; raises `CheckpointError` where it is none."""
    found = _given(config, name, default)
    if type(found) not in (int, float) or not 0 < found <= sys.float_info.max:
        raise CheckpointError(f"config.json has {found!r:.40} as {name}, and a number above 0 is needed")
    return float(found)


def _given(config: dict[str, Any], name: str, default: float | None) -> Any:
    """A value of `config.json`, where null is none."""
    found = config.get(name)
    if found is None and default is None:
        raise CheckpointError(f"config.json lacks {name!r}")
    return default if found is None else found


def _rotary_base(config: dict[str, Any]) -> float:
    """RoPE's base where that is all there is to it; raises `CheckpointError` for every kind of scaling."""
    base = config
    for name in ("rope_scaling", "rope_parameters"):  # the second is the name since transformers 5
        rope = config.get(name) or {}
        if not isinstance(rope, dict):
            raise CheckpointError(f"config.json has {rope!r:.40} as {name}, and an object is needed")
        kind = rope.get("rope_type") or rope.get("type") or "default"
        others = sorted({*rope} - {"rope_type", "type", "rope_theta"})
        if kind != "default" or others:
            what = repr(kind) if kind != "default" else f"by {others[0]}"
            raise CheckpointError(f"RoPE scaling {what} is not supported: take it out of {name} in config.json")
        base = rope if rope.get("rope_theta") is not None else base
    return _positive(base, "rope_theta", 10000.0)
