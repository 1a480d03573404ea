"""How matrices lie in the portable engine's file: as its step on a CPU reads them, so that it maps the file as it is.

Outputs lie in panels of 16, whose weights of an input, or of a few, stand side by side. The formats are those of
`nimble_coder/engine/matrix.h`:

fp32  float32 [panels, in, 16]
bf16  bfloat16 [panels, in / 2, 16, 2]
int8  uint8 [panels, blocks, 1088], for each 64 inputs: scales [2, 16] in bf16, bytes q [2, 8, 16, 4]
int4  uint8 [panels, blocks, 640], for each 64 inputs: scales [2, 16] and offsets [2, 16] in bf16, bytes [2, 4, 16, 4]

Groups of 32 inputs of an output share a scale. A weight is scale * (q - 128) of 8 bits and scale * q - offset of 4; a
byte of int4 has an input's q below and that of the input four further on above. Absent inputs and outputs are zero.
"""

import torch
from torch.nn import functional

PANEL, GROUP, BLOCK = 16, 32, 64
BLOCK_BYTES = {"int8": 1088, "int4": 640}
LEVELS = 15
"""The largest q of 4 bits."""
SPANS = (10, 11, 12, 13, 14, 14.5, 15, 15.5, 16)
"""How many steps a group's range is tried to have: fewer where its numbers lie on a coarser grid, as those of GGUF's
Q4_K do, more where it pays to clip the outermost."""
PIECE = 1 << 15
"""Groups whose scales are sought at once: they stay in a processor's cache."""


def pack(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """A matrix `[out, in]` in a format."""
    rows, columns = weight.shape
    wide = {"fp32": 1, "bf16": 2}.get(kind, BLOCK)
    weight = functional.pad(weight, (0, -columns % wide, 0, -rows % PANEL))
    panels = weight.shape[0] // PANEL
    if kind in ("fp32", "bf16"):
        dtype = torch.float32 if kind == "fp32" else torch.bfloat16
        side_by_side = weight.to(dtype).view(panels, PANEL, -1, wide).transpose(1, 2).contiguous()
        return side_by_side.squeeze(-1) if kind == "fp32" else side_by_side
    packed = [_pack_panel(each, kind) for each in weight.float().view(panels, PANEL, -1, 2, GROUP).split(PANEL)]
    return torch.cat(packed)


def unpack(packed: torch.Tensor, out: int, columns: int) -> torch.Tensor:
    """The matrix `[out, in]` again: bf16 of bf16, else fp32. Quantised weights are what the engine takes them for."""
    kind = format_of(packed)
    panels = packed.shape[0]
    if kind == "fp32":
        packed = packed[..., None]
    if kind in ("fp32", "bf16"):
        return packed.transpose(1, 2).reshape(panels * PANEL, -1)[:out, :columns].contiguous()
    blocks = packed.shape[1]
    tables = 2 if kind == "int4" else 1
    scales = packed[..., : 2 * tables * PANEL * 2].contiguous().view(torch.bfloat16)
    scales = scales.view(panels, blocks, tables, 2, PANEL).permute(2, 0, 4, 1, 3).float()[..., None]
    stored = packed[..., 2 * tables * PANEL * 2 :].reshape(panels, blocks, 2, -1, PANEL, 4)
    if kind == "int8":
        numbers = stored.permute(0, 4, 1, 2, 3, 5).reshape(panels, PANEL, blocks, 2, GROUP)
        weight = scales[0] * (numbers.float() - 128)
    else:
        both = torch.stack([stored & LEVELS, stored >> 4], -2)  # [panels, blocks, 2, 4, 16, halves, 4]
        numbers = both.permute(0, 4, 1, 2, 3, 5, 6).reshape(panels, PANEL, blocks, 2, GROUP)
        weight = scales[0] * numbers.float() - scales[1]
    return weight.reshape(panels * PANEL, blocks * BLOCK)[:out, :columns].contiguous()


def format_of(tensor: torch.Tensor) -> str | None:
    """A packed matrix's format; None of one in rows, and of a vector. Raises `ValueError` for what is neither."""
    if tensor.ndim <= 2:
        return None
    kind = {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(tensor.dtype)
    found = kind or next((name for name, size in BLOCK_BYTES.items() if size == tensor.shape[-1]), None)
    if found is None:
        raise ValueError(f"a {tensor.dtype} tensor of shape {list(tensor.shape)} is in no format of weights")
    return found


def round_rows(rows: torch.Tensor) -> torch.Tensor:
    """What a quantised matrix makes of its input `[..., in]`: groups of 32 numbers rounded to 8 bits and a scale."""
    groups = functional.pad(rows.float(), (0, -rows.shape[-1] % GROUP)).unflatten(-1, (-1, GROUP))
    largest = groups.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 127 / largest, 0)
    rounded: torch.Tensor = (groups * inverse).round() * (largest / 127)
    return rounded.flatten(-2)[..., : rows.shape[-1]].to(rows.dtype)


def _pack_panel(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Some panels `[panels, 16, blocks, 2, 32]` in fp32 as uint8 `[panels, blocks, bytes]`."""
    panels, _, blocks, *_ = weight.shape
    if kind == "int8":
        tables = [(weight.abs().amax(-1) / 127).bfloat16()]
        inverse = torch.where(tables[0] > 0, 1 / tables[0].float(), 0)[..., None]
        numbers = (weight * inverse).round().clamp(-127, 127).add(128).to(torch.uint8)
        stored = numbers.view(panels, PANEL, blocks, 2, 8, 4)
    else:
        *tables, numbers = four_bits(weight)
        halves = numbers.view(panels, PANEL, blocks, 2, 4, 2, 4)
        stored = halves[..., 0, :] | halves[..., 1, :] << 4
    quants = stored.permute(0, 2, 3, 4, 1, 5).reshape(panels, blocks, -1)
    scales = [each.permute(0, 2, 3, 1).reshape(panels, blocks, -1).view(torch.uint8) for each in tables]
    return torch.cat([*scales, quants], -1)


def four_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scales and offsets in bf16 and q as uint8 of groups `[..., 32]`, near the least squares that there are."""
    pieces = [_four_bits(each) for each in weight.reshape(-1, GROUP).split(PIECE)]
    scale, offset, q = (torch.cat(each) for each in zip(*pieces, strict=True))
    return scale.view(weight.shape[:-1]), offset.view(weight.shape[:-1]), q.view(weight.shape)


def _four_bits(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    above = groups - low
    extent, total = (high - low).clamp(min=1e-20), above.sum(-1)
    best_scale, best_base = torch.zeros_like(total), total / GROUP
    best_gain = torch.zeros_like(total)
    for span in SPANS:
        # Clipping takes from both ends alike.
        q = (above * (span / extent)).sub_(max(0, span - LEVELS) / 2).round_().clamp_(0, LEVELS)
        q_sum, products, squares = q.sum(-1), torch.linalg.vecdot(q, above), torch.linalg.vecdot(q, q)
        # Least squares of above = scale * q + base: what is left of the variance is less by the gain.
        covariance, variance = GROUP * products - q_sum * total, (GROUP * squares - q_sum**2).clamp(min=1e-20)
        scale = covariance / variance
        gain = covariance * scale
        better = gain > best_gain
        best_gain = torch.where(better, gain, best_gain)
        best_scale = torch.where(better, scale, best_scale)
        best_base = torch.where(better, (total - scale * q_sum) / GROUP, best_base)
    scale, offset = best_scale.bfloat16(), -(best_base + low[:, 0]).bfloat16()
    inverse = torch.where(scale > 0, 1 / scale.float(), 0)
    q = ((groups + offset.float()[:, None]) * inverse[:, None]).round_().clamp_(0, LEVELS)
    return scale, offset, q.to(torch.uint8)
