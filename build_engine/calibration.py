"""What a checkpoint's matrices multiply when it reads code: by that its 4-bit weights are chosen (`four_bits.py`).

The code is this package's own. It is there wherever an engine is built, the same everywhere, and in no benchmark.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional

from build_engine.checkpoint import Checkpoint
from build_engine.four_bits import Moments
from build_engine.packing import BLOCK
from build_engine.reference import Reference

SAMPLES, SAMPLE_TOKENS = 8, 256
SPAN = 2048
"""Inputs that are measured with each other: the work grows with the cube of it, and what it brings hardly."""
MEASURED = {"q_proj": "qkv_weight", "o_proj": "output", "gate_proj": "gate_up", "down_proj": "down"}
"""The engine's matrices, by the checkpoint's projections that have the same inputs."""


def samples(checkpoint: Checkpoint) -> list[list[int]]:
    """Pieces of code as token ids, spread over the files of this package."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    tokenizer = Tokenizer.from_file(str(checkpoint.directory / "tokenizer.json"))
    ids = tokenizer.encode("\n".join(file.read_text(encoding="utf-8") for file in files)).ids
    apart = len(ids) // SAMPLES
    return [ids[start : start + SAMPLE_TOKENS] for start in range(0, SAMPLES * apart, apart)]


class Calibration(Reference):
    """The inputs of every matrix of a checkpoint's layers, measured as they are asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self._layers = self._hidden_states(samples(checkpoint))
        self._measured: dict[str, Moments] = {}

    def take(self, name: str) -> Moments:
        """Of a matrix `layers.N.NAME` of the engine. The names come in the engine's order, each once."""
        while name not in self._measured:
            next(self._layers)
        return self._measured.pop(name)

    def _linear(self, name: str, rows: torch.Tensor, bias: bool = False) -> torch.Tensor:
        layer, projection = name.split(".")[2], name.rsplit(".", 1)[1]
        if projection in MEASURED:
            self._measured[f"layers.{layer}.{MEASURED[projection]}"] = moments(rows)
        return super()._linear(name, rows, bias)


def moments(rows: torch.Tensor) -> Moments:
    """Of inputs `[rows, in]`, filled up as `packing.pack` does it."""
    spans = functional.pad(rows, (0, -rows.shape[1] % BLOCK)).split(SPAN, -1)
    return [span.T @ span / len(span) for span in spans]
