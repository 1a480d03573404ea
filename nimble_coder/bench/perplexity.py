"""How well an engine predicts code that nobody trained or calibrated it on here: its perplexity.

    scripts/bench perplexity --model CHECKPOINT [--precision bf16 int8 int4] [--int8-kv-cache] [--tokens 512]

The text is 512 tokens of each of 16 modules of the running Python's standard library, so compare engines with the same
Python. Modules that have fewer than `--tokens` are left out. Each precision is made from the checkpoint and computed by
the compiled step; the first is what the others are held against, token by token, with the standard error of that.
`--int8-kv-cache` computes each again, with keys and values in 8 bits.
"""

import argparse
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.calibration import HELD_OUT
from build_engine.checkpoint import Checkpoint
from build_engine.engines.torch import build_torch_engine
from build_engine.precision import INT8, STEP_PRECISIONS, Precision
from build_engine.profiles import find_profile
from nimble_coder.bench.arguments import checkpoint_directory, positive_int, thread_count
from nimble_coder.engine.batch import BatchBuilder
from nimble_coder.engine.compiled import find_step
from nimble_coder.engine.native import CompiledStep, takes
from nimble_coder.text.tokenizer import TextTokenizer

FIRST, TOKENS = 600, 512
"""Of each module: behind its licence and imports."""


def texts(checkpoint: Path, tokens: int = TOKENS) -> list[list[int]]:
    """The tokens of the modules that have as many."""
    tokenizer, library = TextTokenizer(checkpoint), Path(sysconfig.get_path("stdlib"))
    ids = [tokenizer.encode((library / f"{name}.py").read_text(encoding="utf-8")) for name in HELD_OUT]
    return [each[FIRST : FIRST + tokens] for each in ids if len(each) >= FIRST + tokens]


def losses(
    checkpoint: Checkpoint, precision: Precision, caches: tuple[str, ...], threads: int, tokens: int = TOKENS
) -> Iterator[torch.Tensor]:
    """By how many nats each token but a text's first surprises the engine of a checkpoint, fp32 `[tokens]`: with keys
    and values in each of the dtypes `caches`."""
    profile = replace(find_profile("demo"), precision=precision)
    with tempfile.TemporaryDirectory() as directory:
        build_torch_engine(checkpoint, profile, Path(directory))
        step = CompiledStep(find_step()[0], threads)
        for cache in caches:
            kept = step.make_cache(checkpoint.shape, 1, tokens, cache)
            model = step.load(Path(directory), checkpoint.shape, kept)
            found = []
            for ids in track(texts(checkpoint.directory, tokens), f"{precision}, {cache} keys and values"):
                builder = BatchBuilder()
                builder.add_chunk(0, 0, ids, True, wants_all=True)
                logits = model.run(builder.build(True)).logits
                assert logits is not None  # noqa: S101 - every row's were asked for
                before = torch.from_numpy(logits[: len(ids) - 1])
                found.append(torch.nn.functional.cross_entropy(before, torch.tensor(ids[1:]), reduction="none"))
            yield torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=checkpoint_directory, required=True, help="a checkpoint's directory")
    parser.add_argument("--precision", nargs="+", choices=STEP_PRECISIONS, default=["bf16", "int8", "int4"])
    parser.add_argument("--int8-kv-cache", action="store_true", help="each also with keys and values in 8 bits")
    parser.add_argument("--tokens", type=positive_int, default=TOKENS, help="of each module")
    parser.add_argument("--threads", type=thread_count, default=1)
    args = parser.parse_args()
    if not find_step():
        raise SystemExit("the step was not compiled here: install a C++ compiler, and this package again")
    torch.set_num_threads(args.threads)
    checkpoint = Checkpoint.open(args.model)
    if not takes(checkpoint.shape, "bfloat16"):
        raise SystemExit(f"the compiled step does not compute models of this shape: {checkpoint.shape}")
    table = Table(title=f"{args.model}: perplexity on code")
    for heading in ("precision", "KV cache", "perplexity", f"over {args.precision[0]}", "standard error"):
        table.add_column(heading, justify="right")
    first = None
    with torch.inference_mode():
        for precision in args.precision:
            caches = ("bfloat16", *([INT8] if args.int8_kv_cache else []))
            all_found = losses(checkpoint, precision, caches, args.threads, args.tokens)
            for cache, found in zip(caches, all_found, strict=True):
                first = found if first is None else first
                more = found - first
                error = float(more.std()) / len(more) ** 0.5
                row = (float(found.mean().exp()), 100 * float(more.mean().expm1()), 100 * error)
                table.add_row(precision, cache, *(text.format(each) for text, each in zip(FORMATS, row, strict=True)))
    Console(width=100).print(table)


FORMATS = ("{:.4f}", "{:+.2f} %", "{:.2f} %")

if __name__ == "__main__":
    main()
