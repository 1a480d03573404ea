"""What runs a step: the seam between the compiled step and PyTorch's."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from build_engine.checkpoint import ModelShape
from nimble_coder.engine.batch import Batch
from nimble_coder.engine.kv_cache import KVCache
from nimble_coder.engine.likely import Floats, LikelyRows


class Logits(Protocol):
    """Those behind the wanted rows of a batch, where the model has left them."""

    def __getitem__(self, rows: slice) -> Floats:
        """`[rows, vocab_size]`, brought here. Nobody changes them."""

    def likely(self, temperatures: Floats) -> LikelyRows | None:
        """The most likely tokens of all rows at their temperatures `[wanted]`; None where it is as quick to find those
        of a row when it is looked at."""


@dataclass(frozen=True)
class Outcome:
    """What the model says behind the wanted rows of a batch."""

    choices: list[int]
    """The most likely token of each."""
    logits: Logits | None
    """Where they were asked for."""


class Platform(Protocol):
    """What a model runs on: what holds its keys and values, and what computes its steps."""

    @property
    def on_gpu(self) -> bool:
        """Whether that is an NVIDIA GPU."""

    def free_memory(self) -> int:
        """Bytes that weights, keys and values may take."""

    def make_cache(self, shape: ModelShape, slots: int, capacity: int, dtype: str, reuse: bool) -> KVCache:
        """Keys and values in a dtype of `build_engine.precision.DTYPE_BYTES`, or in `INT8` on the compiled step; a slot
        has `capacity` entries."""

    def load(self, engine_dir: Path, shape: ModelShape, cache: KVCache) -> "Model":
        """The model of an engine, bound to a cache that was made here."""


class Model(Protocol):
    """A model bound to its KV cache."""

    def run(self, batch: Batch) -> Outcome:
        """One forward pass; stores the keys and values of all rows in the cache, row by row behind the cached ones."""

    def seconds(self, batch: Batch) -> float:
        """How long `run` takes. It may be told from a part of the work, which leaves the cache's entries wrong."""


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
