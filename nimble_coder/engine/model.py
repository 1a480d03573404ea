"""What runs a step: the seam between PyTorch's step and the compiled one."""

from dataclasses import dataclass
from typing import Protocol

import torch

from nimble_coder.engine.batch import Batch


@dataclass(frozen=True)
class Outcome:
    """What the model says behind the wanted rows of a batch."""

    choices: list[int]
    """The most likely token of each."""
    logits: torch.Tensor | None
    """`[wanted, vocab_size]`, where they were asked for."""


class Model(Protocol):
    """A model bound to its KV cache."""

    def run(self, batch: Batch) -> Outcome:
        """One forward pass; stores the keys and values of all rows in the cache, row by row behind the cached ones."""
