"""Makes the portable engine: weights cast to the engine's precision and fused as its PyTorch step wants them.

The result, `config.json` and `rank0.safetensors`, stands where a TensorRT engine has `config.json` and `rank0.engine`.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from build_engine.checkpoint import Checkpoint
from build_engine.engine_config import DTYPES, TORCH_ENGINE, WEIGHTS, EngineConfig
from build_engine.profiles import Profile, ProfileError

Source = Callable[[str], torch.Tensor]


def build_torch_engine(checkpoint: Checkpoint, profile: Profile, engine_dir: Path) -> None:
    """Writes the engine of `profile` into the empty directory `engine_dir`.

    Raises `ProfileError` where the profile asks for what the model or this engine cannot do.
    """
    limit = checkpoint.shape.max_position_embeddings
    if profile.max_seq_len > limit:
        raise ProfileError(f"max_seq_len {profile.max_seq_len} exceeds the model's {limit} positions; lower it")
    if profile.tensor_parallel != 1:
        raise ProfileError("the torch engine runs on one device: tensor_parallel must be 1")
    dtype: torch.dtype = getattr(torch, DTYPES[profile.precision])
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(safe_open(checkpoint.directory / name, framework="pt"))
            for name in sorted({*checkpoint.weight_files.values()})
        }

        def source(name: str) -> torch.Tensor:
            tensor: torch.Tensor = files[checkpoint.weight_files[name]].get_tensor(name)
            return tensor.to(dtype)

        weights = dict(fused_weights(checkpoint, source))
        write(weights, engine_dir / WEIGHTS)
    EngineConfig.of(profile, checkpoint.shape, TORCH_ENGINE).write(engine_dir)


def write(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Writes a safetensors file; raises `OSError`, of which safetensors leaves no more than a text."""
    try:
        save_file(weights, path)
        # safetensors gives the file to its owner alone; a server may run as another user than the builder.
        path.chmod(path.parent.stat().st_mode & 0o666)
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise


def fused_weights(checkpoint: Checkpoint, source: Source) -> Iterator[tuple[str, torch.Tensor]]:
    """The engine's tensors: Q, K and V stacked in one matrix, gate and up in another; rows are output features."""
    yield "embedding", source("model.embed_tokens.weight")
    yield "norm", source("model.norm.weight")
    if not checkpoint.shape.tie_word_embeddings:
        yield "head", source("lm_head.weight")
    for layer in range(checkpoint.shape.num_hidden_layers):
        old, new = f"model.layers.{layer}.", f"layers.{layer}."
        yield new + "attention_norm", source(old + "input_layernorm.weight")
        for part in ("weight", "bias"):
            stacked = [source(f"{old}self_attn.{name}_proj.{part}") for name in "qkv"]
            yield f"{new}qkv_{part}", torch.cat(stacked)
        yield new + "output", source(old + "self_attn.o_proj.weight")
        yield new + "mlp_norm", source(old + "post_attention_layernorm.weight")
        yield new + "gate_up", torch.cat([source(old + "mlp.gate_proj.weight"), source(old + "mlp.up_proj.weight")])
        yield new + "down", source(old + "mlp.down_proj.weight")
