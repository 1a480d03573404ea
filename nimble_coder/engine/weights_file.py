"""The engine's file of weights, mapped: what the compiled step reads is the file itself."""

import json
import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from build_engine.precision import packed_format

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "U8": np.uint8}
"""By safetensors' names. NumPy has no bf16."""


class Stored(NamedTuple):
    """A tensor of the file."""

    format: str | None
    """What the compiled step takes it for (`build_engine.packing`), vectors of floats for `fp32`; None: for nothing."""
    array: NDArray[Any]


def map_weights(path: Path) -> dict[str, Stored]:
    """All tensors, which the kernel shares between processes and may drop. Format: safetensors' README, "Format"."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    found = {}
    for name, told in header.items():
        kind, shape, (start, end) = told["dtype"], told["shape"], told["data_offsets"]
        dtype = np.dtype(DTYPES[kind])
        array = np.frombuffer(mapped, dtype, (end - start) // dtype.itemsize, 8 + size + start).reshape(shape)
        found[name] = Stored("fp32" if len(shape) == 1 and kind == "F32" else packed_format(kind, shape), array)
    return found
