"""An engine made from a checkpoint for one measurement: no cache, no artefact, nothing left behind."""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import build_engine
from build_engine.checkpoint import Checkpoint
from build_engine.engines.torch import build_torch_engine
from build_engine.lookahead import LookaheadConfig
from build_engine.precision import Precision
from build_engine.profiles import ANY, CUDA, find_profile
from nimble_coder.bench.arguments import checkpoint_directory
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions

EMBEDDED_MODEL = Path(build_engine.__file__).parent / "embedded_model"


def add_model(parser: argparse.ArgumentParser) -> None:
    """`--model`: the checkpoint that is measured."""
    told = "a checkpoint; without one the embedded toy"
    parser.add_argument("--model", type=checkpoint_directory, default=EMBEDDED_MODEL, help=told)


def largest(configs: Sequence[LookaheadConfig]) -> LookaheadConfig:
    """The smallest (W, N, G) that all of `configs` are within."""
    return LookaheadConfig(
        max(c.window_size for c in configs),
        max(c.ngram_size for c in configs),
        max(c.verification_set_size for c in configs),
    )


@contextmanager
def checkpoint_engine(
    checkpoint: Path,
    precision: Precision,
    configs: Sequence[LookaheadConfig],
    options: TorchEngineOptions,
    max_batch_size: int = 8,
) -> Iterator[TorchEngine]:
    """The portable engine of a checkpoint, large enough for every one of `configs`."""
    lookahead = largest(configs)
    profile = replace(
        find_profile("demo"),
        name="bench",
        lookahead=lookahead,
        precision=precision,
        gpu=CUDA if precision == "fp8" else ANY,
        max_batch_size=max_batch_size,
        max_input_len=1536,
        max_seq_len=2048,
        max_num_tokens=2048,
    )
    with tempfile.TemporaryDirectory() as directory:
        build_torch_engine(Checkpoint.open(checkpoint), profile, Path(directory))
        engine = TorchEngine(Path(directory), lookahead, options)
        try:
            yield engine
        finally:
            engine.shutdown()
