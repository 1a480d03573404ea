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

from build_engine.four_bits import GROUP, LEVELS, Compensation, Moments, compensated, nearest
from build_engine.precision import packed_format

PANEL, BLOCK = 16, 64
KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}
"""What safetensors calls them."""
PIECE = 128
"""Panels that are rounded at once."""


def pack(weight: torch.Tensor, kind: str, moments: Moments | None = None) -> torch.Tensor:
    """A matrix `[out, in]` in a format; of 4 bits so that its products with inputs of such moments change little."""
    rows, columns = weight.shape
    wide = {"fp32": 1, "bf16": 2}.get(kind, BLOCK)
    weight = functional.pad(weight, (0, -columns % wide, 0, -rows % PANEL))
    panels = weight.shape[0] // PANEL
    if kind in ("fp32", "bf16"):
        dtype = torch.float32 if kind == "fp32" else torch.bfloat16
        side_by_side = weight.to(dtype).view(panels, PANEL, -1, wide).transpose(1, 2).contiguous()
        return side_by_side.squeeze(-1) if kind == "fp32" else side_by_side
    spans = [Compensation.of(moment) for moment in moments] if moments and kind == "int4" else None
    pieces = weight.float().view(panels, PANEL, -1).split(PIECE)
    return torch.cat([_pack_panels(each, kind, spans) for each in pieces])


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
    return packed_format(KINDS.get(tensor.dtype, str(tensor.dtype)), tensor.shape)


def round_rows(rows: torch.Tensor) -> torch.Tensor:
    """What a quantised matrix makes of its input `[..., in]`: groups of 32 numbers rounded to 8 bits and a scale."""
    groups = functional.pad(rows.float(), (0, -rows.shape[-1] % GROUP)).unflatten(-1, (-1, GROUP))
    largest = groups.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 127 / largest, 0)
    rounded: torch.Tensor = (groups * inverse).round() * (largest / 127)
    return rounded.flatten(-2)[..., : rows.shape[-1]].to(rows.dtype)


def _pack_panels(weight: torch.Tensor, kind: str, spans: list[Compensation] | None) -> torch.Tensor:
    """Some panels `[panels, 16, in]` in fp32 as uint8 `[panels, blocks, bytes]`."""
    panels, blocks = len(weight), weight.shape[-1] // BLOCK
    if kind == "int8":
        groups = weight.view(panels, PANEL, blocks, 2, GROUP)
        tables = [(groups.abs().amax(-1) / 127).bfloat16()]
        inverse = torch.where(tables[0] > 0, 1 / tables[0].float(), 0)[..., None]
        numbers = (groups * inverse).round().clamp(-127, 127).add(128).to(torch.uint8)
        stored = numbers.view(panels, PANEL, blocks, 2, 8, 4)
    else:
        rows = weight.flatten(0, 1)
        *tables, numbers = compensated(rows, spans) if spans else nearest(rows)
        halves = numbers.reshape(panels, PANEL, blocks, 2, 4, 2, 4)
        stored = halves[..., 0, :] | halves[..., 1, :] << 4
    quants = stored.permute(0, 2, 3, 4, 1, 5).reshape(panels, blocks, -1)
    scales = [each.reshape(panels, PANEL, blocks, 2).permute(0, 2, 3, 1).reshape(panels, blocks, -1) for each in tables]
    return torch.cat([*(each.view(torch.uint8) for each in scales), quants], -1)
