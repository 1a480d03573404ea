"""Makes the portable engine: weights in the engine's precision, fused and packed as its step wants them.

The result, `config.json` and `rank0.safetensors`, stands where a TensorRT engine has `config.json` and `rank0.engine`.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open

from build_engine.calibration import Calibration
from build_engine.checkpoint import Checkpoint
from build_engine.eight_bits import is_rounded, quantise, scales_of
from build_engine.engine_config import TORCH_ENGINE, WEIGHTS, EngineConfig
from build_engine.packing import KINDS, pack
from build_engine.precision import PRECISIONS, STEP_PRECISIONS, Numbers
from build_engine.profiles import CUDA, Profile, ProfileError

Source = Callable[[str], torch.Tensor]
Named = tuple[str, torch.Tensor]
Progress = Callable[[str], None]

SECONDS_BETWEEN = 10.0
"""Between two words on how far it is: 4 bits take minutes, the others seconds."""


def build_torch_engine(
    checkpoint: Checkpoint, profile: Profile, engine_dir: Path, progress: Progress = lambda _: None
) -> None:
    """Writes the engine of `profile` into the empty directory `engine_dir`.

    Raises `ProfileError` where the profile asks for what the model or this engine cannot do.
    """
    profile.check_positions(checkpoint.shape.max_position_embeddings)
    if profile.tensor_parallel != 1:
        raise ProfileError("the torch engine runs on one device: tensor_parallel must be 1")
    numbers = PRECISIONS[profile.precision]
    packs = profile.gpu != CUDA and profile.precision in STEP_PRECISIONS  # a GPU reads rows
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(safe_open(checkpoint.directory / name, framework="pt"))
            for name in sorted({*checkpoint.weight_files.values()})
        }

        def source(name: str) -> torch.Tensor:
            tensor: torch.Tensor = files[checkpoint.weight_files[name]].get_tensor(name)
            return tensor

        tensors: Iterator[Named]
        layers = checkpoint.shape.num_hidden_layers
        named = told(fused_weights(checkpoint, source), layers, progress)
        if packs:
            calibration = Calibration(checkpoint) if numbers.matrices == "int4" else None
            tensors = ((name, stored(name, tensor, numbers, calibration)) for name, tensor in named)
        else:
            tensors = rows_of(named, numbers)
        write(tensors, engine_dir / WEIGHTS, room=ENTRY * (OTHERS + A_LAYER * layers))
    EngineConfig.of(profile, checkpoint.shape, TORCH_ENGINE).write(engine_dir)


def rows_of(named: Iterator[Named], numbers: Numbers) -> Iterator[Named]:
    """The engine's tensors as a GPU reads them: in rows, and of 8 bits with their scales."""
    for name, tensor in named:
        if numbers.matrices == "fp8" and is_rounded(name, tensor):
            rounded, scales = quantise(tensor)
            yield name, rounded
            yield scales_of(name), scales
        else:
            yield name, tensor.to(getattr(torch, numbers.dtype))


def stored(name: str, tensor: torch.Tensor, numbers: Numbers, calibration: Calibration | None = None) -> torch.Tensor:
    """A tensor as the CPU's step reads it: matrices packed, norms and biases in fp32."""
    if tensor.ndim == 1:
        return tensor.float()
    kind = numbers.format_of(name)
    return pack(tensor, kind, calibration.take(name) if calibration and kind == "int4" else None)


def told(tensors: Iterator[Named], layers: int, progress: Progress) -> Iterator[Named]:
    """Hands the engine's tensors on, and says every ten seconds which layer's turn it is."""
    said = time.monotonic()
    for name, tensor in tensors:
        if name.startswith("layers.") and time.monotonic() - said > SECONDS_BETWEEN:
            said = time.monotonic()
            progress(f"packing layer {int(name.split('.')[1]) + 1} of {layers}")
        yield name, tensor


ALIGNMENT = 64
"""Of the first tensor in the file, and so of all: a cache line."""


ENTRY, OTHERS, A_LAYER = 160, 3, 12
"""Bytes that a tensor takes in the header at most, and how many there are at most, scales counted."""


def write(tensors: Iterator[Named], path: Path, room: int) -> None:
    """Writes a safetensors file, never more of it in memory than a tensor; raises `OSError`.

    Its header comes first, is known last, and gets `room`. Not by that library: it would take all tensors at once, and
    align them to 8 bytes. Format: its README, "Format".
    """
    length = room + -(8 + room) % ALIGNMENT
    header, end = {}, 0
    with path.open("wb") as file:
        file.seek(8 + length)
        for name, tensor in tensors:
            start, end = end, end + tensor.nbytes
            header[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        text = json.dumps(header).encode()
        if len(text) > length:
            raise AssertionError(f"{len(header)} tensors need {len(text)} bytes, {length} are kept for them")
        file.seek(0)
        file.write(length.to_bytes(8, "little") + text.ljust(length))


def fused_weights(checkpoint: Checkpoint, source: Source) -> Iterator[Named]:
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
