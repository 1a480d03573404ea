"""What a checkpoint's matrices multiply when it reads code: by that its 4-bit weights are chosen (`four_bits.py`).

The code is the standard library of the running Python, which is on every machine.
"""

import sysconfig
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional

from build_engine.checkpoint import Checkpoint
from build_engine.four_bits import Moments
from build_engine.packing import BLOCK
from build_engine.reference import Reference

SAMPLES, SAMPLE_TOKENS = 32, 128
"""Pieces of as many modules: 2,048 tokens of eight modules told little about other code."""
LEAST_CHARACTERS = 8000
"""Of a module, a piece of whose middle is taken: the beginning is its licence and its imports."""
HELD_OUT = (
    *("argparse", "json/decoder", "asyncio/events", "http/client", "ast", "csv", "dataclasses", "email/message"),
    *("fractions", "heapq", "imaplib", "logging/__init__", "pathlib", "shutil", "threading", "zipfile"),
)
"""Modules that are left for measurements (`nimble_coder.bench.perplexity`)."""
SPAN = 2048
"""Inputs that are measured with each other: the work grows with the cube of it."""
MEASURED = {"o_proj": "output", "gate_proj": "gate_up", "down_proj": "down"}
"""The engine's matrices in 4 bits, by the checkpoint's projections that have the same inputs."""


def samples(checkpoint: Checkpoint) -> list[list[int]]:
    """Pieces of code as token ids."""
    library = Path(sysconfig.get_path("stdlib"))
    tokenizer = Tokenizer.from_file(str(checkpoint.directory / "tokenizer.json"))
    sources = [file.read_text(encoding="utf-8") for file in sorted(library.glob("*.py")) if file.stem not in HELD_OUT]
    long = [text for text in sources if len(text) >= LEAST_CHARACTERS]
    pieces = [text[len(text) // 2 :][:LEAST_CHARACTERS] for text in long[:: max(1, len(long) // SAMPLES)][:SAMPLES]]
    return [tokenizer.encode(piece, add_special_tokens=False).ids[:SAMPLE_TOKENS] for piece in pieces]


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
