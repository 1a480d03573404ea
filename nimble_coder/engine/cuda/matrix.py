"""A weight matrix on a GPU, multiplied by cuBLAS: in the model's dtype, or in 8 bits with inputs of 8 bits."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from build_engine.eight_bits import scales_of


@dataclass(frozen=True)
class Rows:
    """Inputs of a product."""

    values: torch.Tensor
    """`[rows, in]`, in the model's dtype or E4M3"""
    scales: torch.Tensor
    """`[rows]` fp32, of values in E4M3"""

    @classmethod
    def empty(cls, rows: int, width: int, dtype: torch.dtype, device: torch.device, eight: bool) -> "Rows":
        kind = torch.float8_e4m3fn if eight else dtype
        scales = torch.empty(rows if eight else 1, dtype=torch.float32, device=device)
        return cls(torch.empty(rows, width, dtype=kind, device=device), scales)


class Matrix:
    """`[out, in]`, with a bias or without."""

    def __init__(self, weights: dict[str, torch.Tensor], name: str, bias: str | None = None) -> None:
        weight = weights[name]
        self.is_eight = scales_of(name) in weights
        self._weight = weight.view(torch.float8_e4m3fn).t() if self.is_eight else weight
        self.scales = weights[scales_of(name)] if self.is_eight else weight
        """`[out]` fp32, of weights in 8 bits; otherwise nothing is read of it."""
        self.bias = weights[bias] if bias else None
        self._one = torch.ones((), dtype=torch.float32, device=weight.device)

    def __call__(self, rows: Rows, dtype: torch.dtype) -> torch.Tensor:
        """`[rows, out]` in `dtype`; of 8 bits without scales and bias, which the kernel behind it has to add.

        cuBLAS' own scales for each row and output cost up to half of what 8 bits bring (docs/gpu-benchmarks.md).
        """
        if not self.is_eight:
            return functional.linear(rows.values, self._weight, self.bias)
        return torch._scaled_mm(
            rows.values, self._weight, scale_a=self._one, scale_b=self._one, out_dtype=dtype, use_fast_accum=True
        )
