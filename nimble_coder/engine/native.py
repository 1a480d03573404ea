"""The compiled step: the model as `step.cpp` runs it, called once per step without the GIL."""

import ctypes
import math
import mmap
from ctypes import POINTER, c_char_p, c_double, c_int, c_int64, c_void_p
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engine.checkpoint import ModelShape
from build_engine.engine_config import WEIGHTS
from build_engine.precision import FINE, INT8
from nimble_coder.engine.batch import Batch
from nimble_coder.engine.kv_cache import KVCache, cache_size
from nimble_coder.engine.likely import Floats
from nimble_coder.engine.memory import OTHERS, free_memory
from nimble_coder.engine.model import Outcome, seconds_of
from nimble_coder.engine.rotary import rotary_angles
from nimble_coder.engine.weights_file import Stored, map_weights


class Shape(ctypes.Structure):
    """`Shape` in step.cpp."""

    _fields_ = (
        *((name, c_int64) for name in ("vocab_size", "hidden_size", "intermediate_size", "layers", "heads")),
        *((name, c_int64) for name in ("kv_heads", "head_dim", "tied")),
        ("rms_norm_eps", c_double),
    )


class Memory(ctypes.Structure):
    """`Memory` in step.cpp."""

    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        ("key_scales", c_void_p),
        ("value_scales", c_void_p),
        ("slots", c_int64),
        ("capacity", c_int64),
        ("cos", c_void_p),
        ("sin", c_void_p),
    )


class Tensor(ctypes.Structure):
    """`Tensor` in step.cpp."""

    _fields_ = (("name", c_char_p), ("format", c_char_p), ("data", c_void_p))


class Step(ctypes.Structure):
    """`Step` in step.cpp."""

    _fields_ = (
        ("rows", c_int64),
        ("tokens", c_void_p),
        ("positions", c_void_p),
        ("segments", c_int64),
        ("segment", c_void_p),
        ("visible", c_void_p),
        ("layers", c_int64),
        ("wanted", c_int64),
        ("wanted_rows", c_void_p),
        ("choices", c_void_p),
        ("logits", c_void_p),
    )


@dataclass(frozen=True)
class HostLogits:
    """Implements `nimble_coder.engine.model.Logits`."""

    logits: Floats
    """`[rows, vocab_size]`"""

    def __getitem__(self, rows: slice) -> Floats:
        """See `Logits`."""
        return self.logits[rows]

    def likely(self, temperatures: Floats) -> None:
        """See `Logits`: 0.2 ms a row."""


FEW_LAYERS = 4
"""That are timed of a deep model. Of the 0.5B and 1.5B in int4 and int8 the times are those of whole steps within 6 %,
and take 0.32 to 0.44 as long to find (1 to 24 rows, CPU time, AVX2, 2026-11-27)."""
ENTRIES: dict[str, type[np.generic]] = {"float32": np.float32, "bfloat16": np.uint16, INT8: np.int8}
"""Dtypes of keys and values, and what NumPy keeps them as."""
TOGETHER = 32
"""`kTogether` in matrix.h."""


def takes(shape: ModelShape, dtype: str) -> bool:
    """Whether `step.cpp` computes models of this shape with keys and values of this dtype.

    Qwen2.5-Coder's heads have 64 and 128 dimensions, and its MLPs 4,864 and more, all of them multiples of 128.
    """
    return shape.head_dim in (64, 128, 256) and shape.intermediate_size % TOGETHER == 0 and dtype in ENTRIES


class CompiledStep:
    """Implements `nimble_coder.engine.model.Platform` on a CPU, without PyTorch."""

    on_gpu = False

    def __init__(self, library: Path, threads: int) -> None:
        self._library, self._threads = library, threads

    def free_memory(self) -> int:
        """See `Platform`."""
        return free_memory() - OTHERS

    def make_cache(self, shape: ModelShape, slots: int, capacity: int, dtype: str, reuse: bool = True) -> KVCache:
        """See `Platform`. Pages come when they are touched, small ones, and rows begin with them: NumPy's own memory
        has large pages, of which a slot's first token would touch one a head, and begins anywhere."""
        size = cache_size(shape, slots, capacity)
        more = FINE if dtype == INT8 else 0
        keys = untouched((*size[:-1], size[-1] + more), ENTRIES[dtype])
        values = untouched(size, ENTRIES[dtype])
        scales = tuple(untouched(size[:-1], np.float32) for _ in range(2)) if dtype == INT8 else ()
        return KVCache(keys, values, reuse, scales=scales)

    def load(self, engine_dir: Path, shape: ModelShape, cache: KVCache) -> "NativeQwen2":
        """See `Platform`."""
        weights = map_weights(engine_dir / WEIGHTS)
        if any(each.format is None for each in weights.values()):
            # What an older build stage wrote, or one for GPUs, lies in rows, and PyTorch packs them.
            from nimble_coder.engine.weights import load_packed

            weights = load_packed(engine_dir)
        return NativeQwen2(self._library, shape, weights, cache, self._threads)


def untouched(size: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """An array whose pages the operating system maps when they are touched."""
    memory = mmap.mmap(-1, math.prod(size) * np.dtype(dtype).itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, dtype).reshape(size)


class NativeQwen2:
    """Implements `nimble_coder.engine.model.Model`. Threads are its own, not PyTorch's; `RuntimeError` where the kernel
    refuses them."""

    def __init__(
        self, library: Path, shape: ModelShape, weights: dict[str, Stored], cache: KVCache, threads: int
    ) -> None:
        self._vocab_size, self._layers = shape.vocab_size, shape.num_hidden_layers
        angles = rotary_angles(shape, cache.capacity)
        cos, sin = (table(angles).astype(np.float32) for table in (np.cos, np.sin))
        entries = (cache.keys, cache.values, *(cache.scales or (None, None)))
        self._kept = [*entries, cos, sin, weights]  # the library has pointers to them
        places = [None if each is None else each.ctypes.data for each in entries]
        memory = Memory(*places, cache.keys.shape[1], cache.capacity, cos.ctypes.data, sin.ctypes.data)
        sizes = Shape(
            shape.vocab_size,
            shape.hidden_size,
            shape.intermediate_size,
            shape.num_hidden_layers,
            shape.num_attention_heads,
            shape.num_key_value_heads,
            shape.head_dim,
            shape.tie_word_embeddings,
            shape.rms_norm_eps,
        )
        tensors = (Tensor * len(weights))(
            *(
                Tensor(name.encode(), (each.format or "").encode(), each.array.ctypes.data)
                for name, each in weights.items()
            )
        )
        self._library = ctypes.CDLL(str(library))
        self._library.nimble_open.restype = c_void_p
        self._library.nimble_open.argtypes = [POINTER(Shape), c_int, c_int64, c_void_p, POINTER(Memory), c_int]
        self._library.nimble_run.argtypes = [c_void_p, POINTER(Step)]
        self._library.nimble_close.argtypes = [c_void_p]
        entry_bytes = cache.keys.dtype.itemsize
        self._model = self._library.nimble_open(sizes, entry_bytes, len(tensors), tensors, memory, threads)
        if self._model is None:
            raise RuntimeError(
                f"the kernel refuses the {threads} threads of the step: raise the limit of processes and threads "
                f"(docker run --pids-limit, ulimit -u), or set NIMBLE_ENGINE_THREADS lower"
            )

    def __del__(self) -> None:
        if hasattr(self, "_model"):
            self._library.nimble_close(self._model)

    def run(self, batch: Batch) -> Outcome:
        """See `Model.run`."""
        return self._run(batch, self._layers)

    def seconds(self, batch: Batch) -> float:
        """See `Model.seconds`. Layers are alike, so a few stand for all of a deep model's. Between two such times the
        head is read, which is larger than a processor's caches."""
        if self._layers < 2 * FEW_LAYERS:
            return seconds_of(lambda: self.run(batch))
        head = seconds_of(lambda: self._run(batch, 0))
        without_head = replace(batch, wanted=batch.wanted[:0])
        return head + self._layers / FEW_LAYERS * seconds_of(lambda: self._run(without_head, FEW_LAYERS))

    def _run(self, batch: Batch, layers: int) -> Outcome:
        wanted = len(batch.wanted)
        choices = np.empty(wanted, np.int64)
        logits = np.empty((wanted, self._vocab_size), np.float32) if batch.wants_logits else None
        step = Step(
            len(batch.tokens),
            batch.tokens.ctypes.data,
            batch.positions.ctypes.data,
            len(batch.segments),
            batch.segments.ctypes.data,
            batch.visible.ctypes.data,
            layers,
            wanted,
            batch.wanted.ctypes.data,
            choices.ctypes.data,
            None if logits is None else logits.ctypes.data,
        )
        self._library.nimble_run(self._model, step)
        return Outcome(choices.tolist(), None if logits is None else HostLogits(logits))
