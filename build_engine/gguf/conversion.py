"""GGUF files to a checkpoint directory in the cache: made once, whole or not at all, and ordinary from then on."""

import hashlib
import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engine.cache import Cache
from build_engine.checkpoint import Checkpoint, CheckpointError, sha256
from build_engine.gguf.model import Floats, GgufModel
from build_engine.gguf.tokenizer import write_tokenizer
from build_engine.snapshot import Snapshot

CONVERSION = 1
"""Raised whenever the same file gives another checkpoint than before."""
WIDTHS = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}
"""PyTorch's name to safetensors' name and bytes."""


def convert(source: Path, cache: Cache, progress: Callable[[str], None]) -> Path:
    """The checkpoint's directory of a GGUF file, in the cache, made where it is not there yet.

    Its place follows from the files' content. Raises `CheckpointError` or `CacheError`.
    """
    model = GgufModel.open(source)
    progress(f"hashing {', '.join(path.name for path in model.files)}")
    content = json.dumps([CONVERSION, *map(sha256, model.files)])
    snapshot = Snapshot(cache, f"gguf/{model.name}", hashlib.sha256(content.encode()).hexdigest()[:40])
    place = snapshot.directory
    if converted(place, progress):
        return place
    _, width = WIDTHS[model.dtype]
    size = width * sum(prod(shape) for _, shape in model.shape.tensors())
    cache.check_space(size, f"converting {source.name}")
    with cache.lock(place, progress), cache.writing():
        if not converted(place, progress):
            place.parent.mkdir(parents=True, exist_ok=True)
            with cache.draft(place) as draft:
                (draft / "config.json").write_text(json.dumps(model.config, indent=2) + "\n", encoding="utf-8")
                write_tokenizer(model, draft)
                write_weights(model, draft / "model.safetensors", progress)
                Checkpoint.open(draft)
        snapshot.name("main")
    progress(f"converted: {place}")
    return place


def converted(place: Path, progress: Callable[[str], None]) -> bool:
    """Whether a whole checkpoint is there already; a damaged one is reported and made again."""
    if not place.is_dir():
        return False
    try:
        Checkpoint.open(place)
    except CheckpointError as error:
        progress(f"{error} (converting again)")
        return False
    progress(f"already converted: {place}")
    return True


def write_weights(model: GgufModel, path: Path, progress: Callable[[str], None]) -> None:
    """Writes all tensors in `model.dtype`, never more of one in memory than a slab.

    The format is safetensors': the header's length in 8 bytes, the header in JSON, then the data.
    """
    kind, width = WIDTHS[model.dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in model.shape.tensors():
        end = offset + width * prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    told = 0
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, _ in model.shape.tensors():
            for slab in model.slabs(name):
                file.write(rounded(slab, model.dtype).tobytes())
            tenth = (file.tell() - len(text)) * 10 // offset
            if tenth > told:
                told = tenth
                progress(f"dequantising to {model.dtype}: {tenth * 10} % of {offset / 1e9:.2f} GB")


def rounded(values: Floats, dtype: str) -> npt.NDArray[Any]:
    """fp32 in another type's bits, rounded to the nearest, halves to even; NumPy has no bfloat16 of its own."""
    if dtype != "bfloat16":
        return values.astype(dtype)
    bits = np.ascontiguousarray(values).view(np.uint32)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), nearest)
