"""How well an engine predicts code that nobody trained or calibrated it on here: its perplexity.

    scripts/bench perplexity --model CHECKPOINT [--precision bf16 int8 int4] [--threads 1]

The text is 512 tokens of each of 16 modules of the running Python's standard library, so compare engines with the same
Python. Each precision is made from the checkpoint and computed by the compiled step; the first is what the others are
held against, token by token, with the standard error of that.
"""

import argparse
import sysconfig
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.calibration import HELD_OUT
from build_engine.checkpoint import Checkpoint
from build_engine.engines.torch import build_torch_engine
from build_engine.precision import STEP_PRECISIONS, Precision
from build_engine.profiles import find_profile
from nimble_coder.engine.batch import BatchBuilder
from nimble_coder.engine.compiled import find_step
from nimble_coder.engine.native import CompiledStep
from nimble_coder.text.tokenizer import TextTokenizer

FIRST, TOKENS = 600, 512
"""Of each module: behind its licence and imports."""


def texts(checkpoint: Path) -> list[list[int]]:
    """The modules' tokens."""
    tokenizer, library = TextTokenizer(checkpoint), Path(sysconfig.get_path("stdlib"))
    ids = [tokenizer.encode((library / f"{name}.py").read_text(encoding="utf-8")) for name in HELD_OUT]
    return [each[FIRST : FIRST + TOKENS] for each in ids]


def losses(checkpoint: Checkpoint, precision: Precision, threads: int) -> torch.Tensor:
    """By how many nats each token but a text's first surprises the engine of a checkpoint, fp32 `[tokens]`."""
    profile = replace(find_profile("demo"), precision=precision)
    with tempfile.TemporaryDirectory() as directory:
        build_torch_engine(checkpoint, profile, Path(directory))
        step = CompiledStep(find_step()[0], threads)
        model = step.load(Path(directory), checkpoint.shape, step.make_cache(checkpoint.shape, 1, TOKENS, "bfloat16"))
        found = []
        for ids in track(texts(checkpoint.directory), precision):
            builder = BatchBuilder()
            builder.add_chunk(0, 0, ids, True, wants_all=True)
            logits = model.run(builder.build(True)).logits
            assert logits is not None  # noqa: S101 - every row's were asked for
            before = torch.from_numpy(logits[: len(ids) - 1])
            found.append(torch.nn.functional.cross_entropy(before, torch.tensor(ids[1:]), reduction="none"))
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint's directory")
    parser.add_argument("--precision", nargs="+", choices=STEP_PRECISIONS, default=["bf16", "int8", "int4"])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if not find_step():
        raise SystemExit("the step was not compiled here: install a C++ compiler, and this package again")
    torch.set_num_threads(args.threads)
    table = Table(title=f"{args.model}: perplexity on code")
    for heading in ("precision", "perplexity", f"over {args.precision[0]}", "standard error"):
        table.add_column(heading, justify="right")
    first = None
    with torch.inference_mode():
        for precision in args.precision:
            found = losses(Checkpoint.open(args.model), precision, args.threads)
            first = found if first is None else first
            more = found - first
            error = float(more.std()) / len(more) ** 0.5
            row = (float(found.mean().exp()), 100 * float(more.mean().expm1()), 100 * error)
            table.add_row(precision, *(text.format(number) for text, number in zip(FORMATS, row, strict=True)))
    Console(width=100).print(table)


FORMATS = ("{:.4f}", "{:+.2f} %", "{:.2f} %")

if __name__ == "__main__":
    main()
