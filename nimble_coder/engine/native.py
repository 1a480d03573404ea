"""The compiled step: the model as `step.cpp` runs it, called once per step without the GIL."""

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from build_engine.checkpoint import ModelShape
from build_engine.packing import format_of
from nimble_coder.engine.batch import Batch
from nimble_coder.engine.kv_cache import KVCache
from nimble_coder.engine.likely import Floats
from nimble_coder.engine.model import Outcome
from nimble_coder.engine.qwen2 import rotary_tables
from nimble_coder.engine.weights import Weights, packed


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


def takes(shape: ModelShape, dtype: torch.dtype) -> bool:
    """Whether `step.cpp` computes models of this shape with keys and values of this dtype.

    Qwen2.5-Coder's heads have 64 and 128 dimensions.
    """
    return shape.head_dim in (64, 128, 256) and dtype in (torch.float32, torch.bfloat16)


class NativeQwen2:
    """Implements `nimble_coder.engine.model.Model`. Threads are its own, not PyTorch's."""

    def __init__(self, library: Path, shape: ModelShape, weights: Weights, cache: KVCache, threads: int) -> None:
        self._vocab_size = shape.vocab_size
        weights = packed(weights)
        cos, sin = (
            table[:, 0, -shape.head_dim // 2 :].contiguous()
            for table in rotary_tables(shape, cache.capacity, torch.float32, torch.device("cpu"))
        )
        self._kept = [cache.keys, cache.values, cos, sin, *weights.values()]  # the library has pointers to them
        slots, capacity = cache.keys.shape[1], cache.capacity
        memory = Memory(cache.keys.data_ptr(), cache.values.data_ptr(), slots, capacity, cos.data_ptr(), sin.data_ptr())
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
                Tensor(name.encode(), (format_of(tensor) or "fp32").encode(), tensor.data_ptr())
                for name, tensor in weights.items()
            )
        )
        self._library = ctypes.CDLL(str(library))
        self._library.nimble_open.restype = c_void_p
        self._library.nimble_open.argtypes = [POINTER(Shape), c_int, c_int64, c_void_p, POINTER(Memory), c_int]
        self._library.nimble_run.argtypes = [c_void_p, POINTER(Step)]
        self._library.nimble_close.argtypes = [c_void_p]
        bf16_cache = cache.keys.dtype == torch.bfloat16
        self._model = self._library.nimble_open(sizes, bf16_cache, len(tensors), tensors, memory, threads)

    def __del__(self) -> None:
        if hasattr(self, "_model"):
            self._library.nimble_close(self._model)

    def run(self, batch: Batch) -> Outcome:
        """See `Model.run`."""
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
            wanted,
            batch.wanted.ctypes.data,
            choices.ctypes.data,
            None if logits is None else logits.ctypes.data,
        )
        self._library.nimble_run(self._model, step)
        return Outcome(choices.tolist(), None if logits is None else HostLogits(logits))
