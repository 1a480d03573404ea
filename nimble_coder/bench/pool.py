"""What earlier requests are worth: one file is completed again and again, as an editor does, with a pool and without.

    scripts/bench pool --model CHECKPOINT [--files 6] [--requests 10] [--threads 2]

Each file is a part of a module of Python's standard library. A request leaves a hole of some lines in it, each time
another one, in a file with a small change, so that no request repeats an earlier one. With a pool and without it they
take turns; texts are equal, or it is an error in fp32. Time runs from a request's first token to its last.
"""

import argparse
import inspect
import statistics
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.lookahead import LookaheadConfig
from build_engine.precision import STEP_PRECISIONS
from nimble_coder.bench.checkpoint_engine import EMBEDDED_MODEL, checkpoint_engine
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import Generation, generate
from nimble_coder.engine.protocol import Engine
from nimble_coder.engine.torch_engine import TorchEngineOptions
from nimble_coder.text.tokenizer import TextTokenizer

MODULES = ("textwrap", "bisect", "heapq", "shlex", "fnmatch", "calendar", "configparser", "csv", "difflib", "string")
LINES, HOLE = 90, 6
"""Of a file, and of a hole in it."""
Runs = dict[tuple[bool, int], list[Generation]]
"""By whether there was a pool, and which request of its file it was."""


def infills(module: str, count: int) -> Iterator[str]:
    """Prompts in the model's infill format, each with another hole and another change."""
    source = inspect.getsource(__import__(module)).splitlines(keepends=True)
    lines = source[len(source) // 3 :][:LINES]
    for number in range(count):
        start = 8 + (number * 37) % (len(lines) - HOLE - 16)
        before = [f"# Revision {number} of this part.\n", *lines[:start]]
        after = lines[start + HOLE :]
        yield f"<|fim_prefix|>{''.join(before)}<|fim_suffix|>{''.join(after)}<|fim_middle|>"


def measure(engine: Engine, prompts: dict[str, list[list[int]]], max_tokens: int, ends: list[list[int]]) -> Runs:
    """Every file's requests in their order."""
    runs: Runs = {}
    for name, asked in track(prompts.items(), "measuring", console=Console(stderr=True)):
        for number, ids in enumerate(asked):
            for pool in ("", name) if number % 2 else (name, ""):
                request = Request(ids, max_tokens, stop_words=ends, draft_pool=pool)
                runs.setdefault((bool(pool), number), []).extend(generate(engine, [request]))
    return runs


def report(runs: Runs, count: int) -> Table:
    table = Table(title="one request at a time, medians over the files")
    for heading in ("request", "tokens/step without", "with a pool", "speed-up", "least", "most", "equal outputs"):
        table.add_column(heading, justify="right")
    for number in range(count):
        without, with_pool = ([r for r in runs[pool, number] if len(r.token_ids) > 1] for pool in (False, True))
        pairs = list(zip(without, with_pool, strict=True))
        ratios = [a.decode_seconds / b.decode_seconds for a, b in pairs]
        table.add_row(
            str(number + 1),
            *(f"{statistics.median(run.tokens_per_step for run in each):.2f}" for each in (without, with_pool)),
            *(f"{found:.2f}x" for found in (statistics.median(ratios), min(ratios), max(ratios))),
            f"{sum(a.token_ids == b.token_ids for a, b in pairs)} of {len(pairs)}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, help="a checkpoint; without one the embedded toy")
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument("--requests", type=int, default=10, help="of each file")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--precision", choices=STEP_PRECISIONS, default="bf16")
    parser.add_argument("--threads", type=int, default=1, help="of a step on a CPU")
    args = parser.parse_args()
    tokenizer = TextTokenizer(args.model)
    prompts = {
        name: [tokenizer.encode(text) for text in infills(name, args.requests)] for name in MODULES[: args.files]
    }
    ends = [[i] for i in tokenizer.end_ids]
    options = TorchEngineOptions(threads=args.threads, device="cpu")
    with checkpoint_engine(args.model, args.precision, [LookaheadConfig(1, 4, 1)], options) as engine:
        generate(engine, [Request(next(iter(prompts.values()))[0], 8)])  # the first use of code paths and slots
        runs = measure(engine, prompts, args.max_tokens, ends)
    Console().print(report(runs, args.requests))


if __name__ == "__main__":
    main()
