"""What ways to draft would give a machine whose step times are known: the engine's own steps are counted on a CPU.

    scripts/bench counted --model CHECKPOINT --step-ms 1:1.3 16:1.2 40:1.4 64:1.4 112:1.5 420:2.1

The engine's budget goes by those times, so it drafts what it would draft there; the time between steps is not counted,
nor, where several requests begin at once, the steps in which the prompt of one of them is read. `replayed` does without
the model, and so without what lookahead's window makes of it.
"""

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.lookahead import PLAIN
from build_engine.precision import STEP_PRECISIONS
from nimble_coder.bench.arguments import positive_int, thread_count
from nimble_coder.bench.checkpoint_engine import add_model, checkpoint_engine
from nimble_coder.bench.load.drafting import WAYS, Drafting
from nimble_coder.bench.lookahead import PROMPTS
from nimble_coder.bench.replayed import step_times
from nimble_coder.contract.request import Request
from nimble_coder.engine.budget import StepCosts
from nimble_coder.engine.generate import generate
from nimble_coder.engine.protocol import Engine
from nimble_coder.engine.torch_engine import TorchEngineOptions
from nimble_coder.text.tokenizer import TextTokenizer

KINDS = [kind for kind in PROMPTS if kind != "own"]  # which are chats, completions and infills
CONFIGS = [Drafting.parse(text) for text in ("suffixes", "windowed", "4,3,4")]


class OtherSteps(StepCosts):
    """Step times of another machine, which no step here changes, and the rows of every step that was taken by them."""

    def __init__(self, seconds: Mapping[float, float]) -> None:
        super().__init__(seconds)
        self.rows: list[int] = []

    def observe(self, rows: int, seconds: float) -> None:  # noqa: ARG002
        """Keeps the rows."""
        self.rows.append(rows)


@dataclass(frozen=True)
class Count:
    """Of all prompts of a kind, from each one's first token on."""

    outputs: list[list[int]]
    rows: list[int]
    """Of each step."""
    seconds: float
    """By the other machine's step times."""

    @property
    def tokens(self) -> int:
        return sum(len(output) - 1 for output in self.outputs)

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds

    def __str__(self) -> str:
        return f"{self.tokens / len(self.rows):.2f} ({statistics.fmean(self.rows):.1f})"


def count(
    engine: Engine, costs: OtherSteps, prompts: list[list[int]], way: Drafting, tokens: int, at_once: int = 1
) -> Count:
    """Runs so many prompts at once, and then as many others, on an engine whose budget goes by `costs`."""
    costs.rows = []
    requests = [Request(ids, tokens, **way.request) for ids in prompts]
    groups = [requests[first : first + at_once] for first in range(0, len(requests), at_once)]
    outputs = [generation.token_ids for group in groups for generation in generate(engine, group)]
    return Count(outputs, costs.rows, sum(map(costs.of, costs.rows)))


def report(found: dict[Drafting, list[Count]], kinds: list[str]) -> Table:
    """A row a way: tokens (and rows) per step of each kind, and the mean of its speeds over those of the first way."""
    first = next(iter(found.values()))
    table = Table(title="tokens (and rows) per step, and speed by the given step times")
    for heading in ("drafting", *kinds, f"over {next(iter(found)).name}", "equal"):
        table.add_column(heading, justify="right")
    for way, counts in found.items():
        ratios = [mine.speed / usual.speed for mine, usual in zip(counts, first, strict=True)]
        pairs = [pair for m, u in zip(counts, first, strict=True) for pair in zip(m.outputs, u.outputs, strict=True)]
        equal = f"{sum(mine == usual for mine, usual in pairs)} of {len(pairs)}"
        cells = [f"{each} {ratio:.2f}x" for each, ratio in zip(counts, ratios, strict=True)]
        table.add_row(way.name, *cells, f"{statistics.fmean(ratios):.2f}x", equal)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--step-ms", nargs="+", required=True, metavar="ROWS:MS")
    parser.add_argument("--prompts", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--count", type=positive_int, default=5, help="of prompts of a kind")
    parser.add_argument("--at-once", type=positive_int, default=1, help="prompts of a kind that share the steps")
    parser.add_argument("--max-tokens", type=positive_int, default=96)
    parser.add_argument("--configs", nargs="+", type=Drafting.parse, default=CONFIGS, help=f"{WAYS}, each")
    parser.add_argument("--precision", choices=STEP_PRECISIONS, default="bf16")
    parser.add_argument("--threads", type=thread_count, default=1, help="of a step")
    args = parser.parse_args()
    tokenizer, costs = TextTokenizer(args.model), OtherSteps(step_times(args.step_ms))
    texts = {kind: list(PROMPTS[kind](args.count).values())[: args.count] for kind in args.prompts}
    prompts = {kind: [tokenizer.encode(text) for text in found] for kind, found in texts.items()}
    options = TorchEngineOptions(threads=args.threads, device="cpu", step_costs=costs, tokenizer=args.model)
    configs = [PLAIN, *(way.lookahead for way in args.configs if way.lookahead)]
    with checkpoint_engine(args.model, args.precision, configs, options, max(args.at_once, 8)) as engine:
        cases = [(kind, way) for kind in prompts for way in args.configs]
        counts: dict[Drafting, list[Count]] = {way: [] for way in args.configs}
        for kind, way in track(cases, "counting", console=Console(stderr=True)):
            counts[way].append(count(engine, costs, prompts[kind], way, args.max_tokens, args.at_once))
    asked = f"{args.count} prompts of a kind, {args.at_once} at once, {args.max_tokens} tokens each"
    print(f"{args.model.name}, {args.precision}, {asked}")
    Console(width=140).print(report(counts, args.prompts))


if __name__ == "__main__":
    main()
