"""Matrices in 8 bits for GPUs: E4M3 numbers and a scale for each output."""

import torch

LARGEST = 448.0
"""Of E4M3 ("FP8 Formats for Deep Learning", arXiv 2209.05433)."""


def is_rounded(name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor of the engine is a layer's matrix. The embedding and the head, which choose, keep 16 bits."""
    return tensor.ndim == 2 and name.startswith("layers.")


def scales_of(name: str) -> str:
    """The name of the tensor with the scales of a matrix's outputs."""
    return f"{name}_scales"


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix `[out, in]` as bytes of E4M3, and its outputs' scales, `[out]` fp32."""
    scales = weight.float().abs().amax(1) / LARGEST
    scales = torch.where(scales > 0, scales, 1.0)
    return (weight.float() / scales[:, None]).to(torch.float8_e4m3fn).view(torch.uint8), scales


def dequantise(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The matrix that `quantise` made these of, in fp32."""
    return weight.view(torch.float8_e4m3fn).float() * scales[:, None]
