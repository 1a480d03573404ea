"""The engine's file of weights as PyTorch reads it, in the layout that what runs them wants."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from build_engine.checkpoint import ModelShape
from build_engine.eight_bits import dequantise, scales_of
from build_engine.engine_config import WEIGHTS
from build_engine.packing import format_of, pack, unpack
from build_engine.precision import BLOCK_BYTES
from build_engine.versions import FP8_SM
from nimble_coder.engine.weights_file import Stored

Weights = dict[str, torch.Tensor]
ROW_FORMATS = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def load_weights(engine_dir: Path, device: torch.device) -> Weights:
    """All tensors. On a CPU they are the file itself, which the kernel shares between processes and may drop.

    Matrices that the build stage wrote in 8 bits for GPUs take 16 where nothing multiplies E4M3.
    """
    weights = load_file(engine_dir / WEIGHTS, device=str(device))
    multiplied = device.type == "cuda" and torch.cuda.get_device_capability(device) >= divmod(FP8_SM, 10)
    return weights if multiplied else in_sixteen_bits(weights)


def load_packed(engine_dir: Path) -> dict[str, Stored]:
    """As the compiled step reads them, on a CPU."""
    return packed(load_weights(engine_dir, torch.device("cpu")))


def packed(weights: Weights) -> dict[str, Stored]:
    """As the compiled step reads them. What an older build stage wrote in rows is copied, the rest is left alone."""
    return {name: _packed(tensor) for name, tensor in weights.items()}


def in_rows(weights: Weights, shape: ModelShape, dtype: torch.dtype) -> Weights:
    """As PyTorch's operators read them: matrices `[out, in]`, all in `dtype` but those in 8 bits and their scales."""
    sizes = tensor_sizes(shape)
    eight = scaled(weights)
    eight |= {scales_of(name) for name in eight}
    return {
        name: tensor
        if name in eight
        else (tensor if format_of(tensor) is None else unpack(tensor, *sizes[name])).to(dtype)
        for name, tensor in weights.items()
    }


def in_sixteen_bits(weights: Weights) -> Weights:
    """With bf16 in place of matrices in 8 bits and their scales, for what has no kernels for those."""
    eight = scaled(weights)
    scales = {scales_of(name) for name in eight}
    return {
        name: dequantise(tensor, weights[scales_of(name)]).bfloat16() if name in eight else tensor
        for name, tensor in weights.items()
        if name not in scales
    }


def scaled(weights: Weights) -> set[str]:
    """The matrices in 8 bits for GPUs."""
    return {name for name in weights if scales_of(name) in weights}


def are_quantised(weights: Weights) -> bool:
    """Whether the matrices multiply inputs of 8 bits."""
    return any(format_of(tensor) in BLOCK_BYTES for tensor in weights.values())


def tensor_sizes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """The tensors of an engine (`build_engine.engines.torch.fused_weights`): matrices `[out, in]`, norms and biases."""
    hidden, inter = shape.hidden_size, shape.intermediate_size
    q, kv = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "attention_norm": (hidden,),
        "qkv_weight": (q + 2 * kv, hidden),
        "qkv_bias": (q + 2 * kv,),
        "output": (hidden, q),
        "mlp_norm": (hidden,),
        "gate_up": (2 * inter, hidden),
        "down": (hidden, inter),
    }
    sizes: dict[str, tuple[int, ...]] = {"embedding": (shape.vocab_size, hidden), "norm": (hidden,)}
    if not shape.tie_word_embeddings:
        sizes["head"] = (shape.vocab_size, hidden)
    for index in range(shape.num_hidden_layers):
        sizes |= {f"layers.{index}.{name}": size for name, size in layer.items()}
    return sizes


def _packed(tensor: torch.Tensor) -> Stored:
    if tensor.ndim == 1:
        return Stored("fp32", tensor.float().numpy())
    kind = format_of(tensor) or ROW_FORMATS[tensor.dtype]
    whole = tensor if format_of(tensor) else pack(tensor, kind)
    return Stored(kind, (whole.view(torch.int16) if kind == "bf16" else whole).numpy())  # NumPy has no bf16
