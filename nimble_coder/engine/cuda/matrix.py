"""A weight matrix on a GPU, multiplied by cuBLAS: in the model's dtype, or in 8 bits with inputs of 8 bits."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from build_engine.eight_bits import scales_of
from nimble_coder.engine.cuda import kernels

OUTPUTS = 1
"""Of a program that multiplies one row"""
INPUTS = 2048
"""That it multiplies at once"""


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

        cuBLAS' own scales for each row and output cost up to half of what 8 bits bring, and sums of fewer bits
        (`use_fast_accum`) bring nothing (docs/gpu-benchmarks.md).
        """
        if not self.is_eight:
            return self._of_one(rows.values) if len(rows.values) == 1 else self._of_many(rows.values)
        return torch._scaled_mm(
            rows.values, self._weight, scale_a=self._one, scale_b=self._one, out_dtype=dtype, use_fast_accum=False
        )

    def _of_many(self, rows: torch.Tensor) -> torch.Tensor:
        return functional.linear(rows, self._weight, self.bias)

    def _of_one(self, row: torch.Tensor) -> torch.Tensor:
        """cuBLAS takes up to 1.7 times as long for the narrow ones, whose sums it splits (docs/gpu-benchmarks.md)."""
        outputs, width = self._weight.shape
        out = torch.empty(1, outputs, dtype=row.dtype, device=row.device)
        kernels.multiply_row[(-(-outputs // OUTPUTS),)](
            row, self._weight, row if self.bias is None else self.bias, out, outputs, width, self.bias is not None,
            OUTPUTS, INPUTS, num_warps=4,
        )  # fmt: skip
        return out
