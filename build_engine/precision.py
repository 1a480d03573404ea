"""Precisions of a profile: in which format an engine's weights lie, and what it computes in.

A format of weights is a row of `FORMAT_BYTES`. `packing.py` says how it lies in the portable engine's file, and the
engine's `matrix.h` how it is multiplied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4"]

FORMAT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0625, "int6": 0.8125, "int4": 0.625}
"""Of a weight. Of int8 and int6, groups of 32 share a scale in bf16; of int4, a scale and an offset."""
BLOCK_BYTES = {"int8": 1088, "int6": 832, "int4": 640}
"""Of a block of 64 inputs and 16 outputs, by which a quantised format is told (`packing.py`)."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
INT8 = "int8"
"""Of keys and values: bytes, and a scale in fp32 for those of one token and head."""
FINE = 8
"""Dimensions of a head in which a key in 8 bits has a second byte: `kFine` in the portable engine's `bytes.h`."""


def kept_bytes(dtype: str, head_dim: int) -> int:
    """Bytes that one token's key and value take in a head of the KV cache."""
    return 2 * (head_dim + DTYPE_BYTES["float32"]) + FINE if dtype == INT8 else 2 * head_dim * DTYPE_BYTES[dtype]


def packed_format(dtype: str, shape: Sequence[int]) -> str | None:
    """The format of a packed matrix, by safetensors' name of its dtype; None of one in rows, and of a vector. Raises
    `ValueError` for what is neither."""
    if len(shape) <= 2:
        return None
    kind = {"F32": "fp32", "BF16": "bf16"}.get(dtype)
    found = kind or next((name for name, size in BLOCK_BYTES.items() if size == shape[-1]), None)
    if found is None:
        raise ValueError(f"a {dtype} tensor of shape {list(shape)} is in no format of weights")
    return found


@dataclass(frozen=True)
class Numbers:
    """What one precision means."""

    dtype: str
    """PyTorch's name of what an engine computes in, and of its keys and values."""
    matrices: str
    """Format of the layers' other matrices."""
    head: str
    """Format of the embedding and the head. Beside 4-bit layers it has 6 bits: it chooses the token."""
    qkv: str
    """Format of the layers' matrices of queries, keys and values. Beside 4 bits it has 6: a quarter of what 4 bits lost
    was lost there, in 7 % of the weights, and 8 bits lose no less than 6."""
    engines: frozenset[str]
    """Which kinds of engine have it."""
    quant_algo: str | None = None
    """In the engine's `config.json`, where the matrices are quantised."""

    def format_of(self, name: str) -> str:
        """Of an engine's matrix."""
        if name in ("embedding", "head"):
            return self.head
        return self.qkv if name.endswith("qkv_weight") else self.matrices

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]


TORCH, TENSORRT = frozenset({"torch"}), frozenset({"tensorrt"})
PRECISIONS: dict[Precision, Numbers] = {
    "fp32": Numbers("float32", "fp32", "fp32", "fp32", TORCH),
    "bf16": Numbers("bfloat16", "bf16", "bf16", "bf16", TORCH | TENSORRT),
    "fp16": Numbers("float16", "fp16", "fp16", "fp16", TORCH | TENSORRT),
    "fp8": Numbers("bfloat16", "fp8", "bf16", "fp8", TORCH | TENSORRT, "FP8"),
    "int8": Numbers("bfloat16", "int8", "int8", "int8", TORCH, "INT8"),
    "int4": Numbers("bfloat16", "int4", "int6", "int6", TORCH, "INT4"),
}
STEP_PRECISIONS: list[Precision] = ["fp32", "bf16", "int8", "int4"]
"""Those of the portable engine's compiled step on a CPU, which has no fp16 and no fp8."""
