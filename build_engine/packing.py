"""How matrices lie in the portable engine's file: as its step on a CPU reads them, so that it maps the file as it is.

Outputs lie in panels of 16, whose weights of an input, or of a few, stand side by side. The formats are those of
`nimble_coder/engine/matrix.h`:

fp32  float32 [panels, in, 16]
bf16  bfloat16 [panels, in / 2, 16, 2]
int8  uint8 [panels, blocks, 1088], for each 64 inputs: scales [2, 16] in bf16, bytes q [2, 8, 16, 4]
int6  uint8 [panels, blocks, 832], for each 64 inputs: scales [2, 16] in bf16, bytes [2, 6, 16, 4]
int4  uint8 [panels, blocks, 640], for each 64 inputs: scales [2, 16] and offsets [2, 16] in bf16, bytes [2, 4, 16, 4]

Groups of 32 inputs of an output share a scale. A weight is scale * (q - 128) of 8 bits, scale * (q - 32) of 6 and
scale * q - offset of 4. A byte of int4 has an input's q below and that of the input four further on above. Of int6 the
first four bytes of six are such, with the lower half of each q; each of the other two has the upper two bits of four.
Absent inputs and outputs are zero.
"""

import torch
from torch.nn import functional

from build_engine.four_bits import GROUP, LEVELS, Compensation, Moments, compensated, nearest
from build_engine.precision import packed_format

PANEL, BLOCK = 16, 64
KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}
"""What safetensors calls them."""
MIDDLES = {"int8": 128, "int6": 32}
"""What stands for zero."""
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
    if kind is None:
        raise ValueError("a tensor in rows is not packed")
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
    numbers = _separate(stored.permute(0, 4, 1, 2, 3, 5), kind).reshape(panels, PANEL, blocks, 2, GROUP).float()
    weight = scales[0] * numbers - (scales[1] if kind == "int4" else scales[0] * MIDDLES[kind])
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


def _together(numbers: torch.Tensor, kind: str) -> torch.Tensor:
    """The bytes `[..., n, 4]` of a group's numbers `[..., 8, 4]`."""
    if kind == "int8":
        return numbers
    low = numbers & LEVELS
    halves = low[..., 0::2, :] | low[..., 1::2, :] << 4
    if kind == "int4":
        return halves
    high = (numbers >> 4).unflatten(-2, (2, 4))  # two bits of the four that share a byte
    return torch.cat([halves, sum(high[..., four, :] << 2 * four for four in range(4))], -2)


def _separate(stored: torch.Tensor, kind: str) -> torch.Tensor:
    """What `_together` put together."""
    if kind == "int8":
        return stored
    halves = stored[..., :4, :]
    low = torch.stack([halves & LEVELS, halves >> 4], -2).flatten(-3, -2)
    if kind == "int4":
        return low
    high = torch.stack([stored[..., 4:, :] >> 2 * four & 3 for four in range(4)], -2).flatten(-3, -2)
    return low | high << 4


def _pack_panels(weight: torch.Tensor, kind: str, spans: list[Compensation] | None) -> torch.Tensor:
    """Some panels `[panels, 16, in]` in fp32 as uint8 `[panels, blocks, bytes]`."""
    panels, blocks = len(weight), weight.shape[-1] // BLOCK
    if kind == "int4":
        rows = weight.flatten(0, 1)
        *tables, numbers = compensated(rows, spans) if spans else nearest(rows)
    else:
        groups, most = weight.view(panels, PANEL, blocks, 2, GROUP), MIDDLES[kind] - 1
        tables = [(groups.abs().amax(-1) / most).bfloat16()]
        inverse = torch.where(tables[0] > 0, 1 / tables[0].float(), 0)[..., None]
        numbers = (groups * inverse).round().clamp(-most, most).add(MIDDLES[kind]).to(torch.uint8)
    stored = _together(numbers.reshape(panels, PANEL, blocks, 2, GROUP // 4, 4), kind)
    quants = stored.permute(0, 2, 3, 4, 1, 5).reshape(panels, blocks, -1)
    scales = [each.reshape(panels, PANEL, blocks, 2).permute(0, 2, 3, 1).reshape(panels, blocks, -1) for each in tables]
    return torch.cat([*(each.view(torch.uint8) for each in scales), quants], -1)
