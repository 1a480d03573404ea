"""The cost model against the clock: tokens per second of forty (w,n,g), budgets and loads, predicted and measured.

    scripts/bench cost-model [--model DIRECTORY --prompts humaneval] [--loads 1 4] [--rounds 2] [--json FILE]

First what the model needs: steps are timed by their rows, and plain decoding, by the clock, records the outputs. From
these every way to draft is predicted, and all are measured, in turns. The last lines say how good a choice is that
measures only a quarter: those that the model expects most of.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from build_engine.lookahead import PLAIN
from build_engine.precision import STEP_PRECISIONS
from nimble_coder.bench.arguments import add_device, new_file, positive_int, thread_count
from nimble_coder.bench.checkpoint_engine import add_model, checkpoint_engine
from nimble_coder.bench.coding_prompts import coding_prompts, humaneval_chats
from nimble_coder.bench.load.drafting import Drafting
from nimble_coder.bench.lookahead import PLAINLY, machine
from nimble_coder.contract.request import Request
from nimble_coder.engine.budget import Budget
from nimble_coder.engine.followers import Followers
from nimble_coder.engine.generate import Generation, generate
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.planning.cost_model import CostModel, Way
from nimble_coder.planning.replay import Recording
from nimble_coder.text.added_tokens import added_tokens
from nimble_coder.text.tokenizer import TextTokenizer

WAYS = [
    Drafting.parse(text)
    for text in (
        *("1,2,1", "1,3,1", "1,4,1", "1,5,1", "1,3,2", "1,4,4", "2,3,2", "2,4,2", "2,4,4", "1,8,8"),
        *("4,3,4", "3,5,3", "4,5,4", "5,5,5", "8,4,8", "8,8,8", "draft:4", "draft:8", "draft:16", "draft:32"),
    )
]
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 112)
"""Of each sequence, in the steps that are timed."""
PLAIN_EVERY = 5
"""Ways between two measurements of plain decoding."""
SHARE = 0.25
"""Of the ways, those that a choice by the model measures."""


@dataclass(frozen=True)
class Result:
    """One way under one load; speeds in tokens per second of all sequences."""

    way: str
    load: int
    rows: float
    """Of a sequence's step, replayed."""
    tokens_per_step: float
    predicted_tokens_per_step: float
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


class Asker:
    """Asks an engine for the same tokens again and again."""

    def __init__(self, engine: TorchEngine, prompts: Sequence[list[int]], tokens: int) -> None:
        self._engine, self._prompts, self._tokens = engine, prompts, tokens

    def ask(self, way: Drafting, load: int) -> list[Generation]:
        """So many prompts together, the next when the last of them has ended; each at least once."""
        count = max(len(self._prompts), load)
        requests = [Request(self._prompts[i % len(self._prompts)], self._tokens, **way.request) for i in range(count)]
        return [each for i in range(0, count, load) for each in generate(self._engine, requests[i : i + load])]


def speed(generations: Sequence[Generation], load: int) -> float:
    """Tokens per second from each wave's first token to its last; the first one of a request comes from its prompt."""
    tokens, seconds = 0, 0.0
    for first in range(0, len(generations), load):
        wave = [each.metrics for each in generations[first : first + load] if each.metrics]
        seconds += max(m.last_token_time_ns for m in wave) / 1e9 - min(m.first_token_time_ns for m in wave) / 1e9
        tokens += sum(len(each.token_ids) - 1 for each in generations[first : first + load])
    return tokens / seconds


def tokens_per_step(generations: Sequence[Generation]) -> float:
    decoded = sum(len(each.token_ids) - 1 for each in generations)
    return decoded / (decoded - sum(each.metrics.total_accepted_draft_tokens for each in generations if each.metrics))


def measurements(ways: Sequence[Drafting], loads: Sequence[int], rounds: int) -> Iterator[tuple[Drafting, int]]:
    """All of them, every round in another order; plain decoding, on which every prediction stands, again and again."""
    cases = []
    for load in loads:
        for number, way in enumerate(ways):
            cases += [(PLAINLY, load), (way, load)] if number % PLAIN_EVERY == 0 else [(way, load)]
    for turn in range(rounds):
        start = turn * len(cases) // rounds
        yield from [*cases[start:], *cases[:start]]


def measure(
    engine: TorchEngine, prompts: list[list[int]], ways: list[Drafting], args: argparse.Namespace
) -> list[Result]:
    """Times steps, records, predicts, and measures."""
    middle = int(statistics.fmean(map(len, prompts))) + args.max_tokens // 2
    asker = Asker(engine, prompts, args.max_tokens)
    with Progress(console=Console(stderr=True)) as progress:
        total = len(args.loads) + 1 + sum(1 for _ in measurements(ways, args.loads, args.rounds))
        task = progress.add_task("timing steps", total=total)
        budget = Budget(deepcopy(engine.step_costs))  # as it is now: what the engine sees later changes its own
        costs = {}
        for load in args.loads:
            costs[load] = engine.time_steps([rows * load for rows in ROWS], load, middle)
            progress.advance(task)
        progress.update(task, advance=1, description="reading prompts")
        for load in args.loads:
            asker.ask(PLAINLY, load)  # the first use of slots and code paths; from now on prompts are in the cache
        found: dict[tuple[Drafting, int], list[list[Generation]]] = {}
        for way, load in measurements(ways, args.loads, args.rounds):
            progress.update(task, description=f"{way.name}, {load} at once")
            found.setdefault((way, load), []).append(asker.ask(way, load))
            progress.advance(task)
    plain = {load: statistics.median(speed(each, load) for each in found[PLAINLY, load]) for load in args.loads}
    outputs = [each.token_ids for each in found[PLAINLY, args.loads[0]][0]]
    recordings = [Recording(ids, tokens) for ids, tokens in zip(prompts, outputs, strict=False)]
    model = CostModel(recordings, costs, budget, plain, Followers.among(added_tokens(args.model)))
    return [result(model, way, load, found[way, load]) for load in args.loads for way in ways]


def result(model: CostModel, drafting: Drafting, load: int, rounds: list[list[Generation]]) -> Result:
    way: Way = drafting.lookahead or drafting.draft_tokens or 0
    gain = model.gain(way, load)
    measured = statistics.median(speed(each, load) for each in rounds)
    predicted = model.tokens_per_second(way, load)
    return Result(drafting.name, load, gain.rows, tokens_per_step(rounds[0]), gain.tokens, measured, predicted)


@dataclass(frozen=True)
class Choice:
    """What the model's favourites lead to, at one load."""

    load: int
    best: Result
    chosen: Result
    measured: int
    """Ways that had to be measured, plain decoding among them."""

    @classmethod
    def by_model(cls, results: Sequence[Result], load: int) -> "Choice":
        """Measures the quarter that the model expects most of; the plain run that it needs is one of them."""
        swept = [each for each in results if each.load == load]
        few = max(1, round(SHARE * (len(swept) + 1)) - 1)
        favourites = sorted(swept, key=lambda each: each.predicted, reverse=True)[:few]
        best, chosen = (max(those, key=lambda each: each.measured) for those in (swept, favourites))
        return cls(load, best, chosen, few + 1)


def report(results: Sequence[Result]) -> Table:
    table = Table(title="tokens per second, all sequences together")
    for heading in ("at once", "way", "rows", "tokens/step", "replayed", "measured", "predicted", "error"):
        table.add_column(heading, justify="right")
    for each in results:
        table.add_row(
            str(each.load),
            each.way,
            f"{each.rows:.1f}",
            f"{each.tokens_per_step:.2f}",
            f"{each.predicted_tokens_per_step:.2f}",
            f"{each.measured:.1f}",
            f"{each.predicted:.1f}",
            f"{100 * each.error:+.0f} %",
        )
    return table


def summary(results: Sequence[Result], choices: Sequence[Choice]) -> list[str]:
    """The figures that the page quotes."""
    errors = [abs(each.error) for each in results]
    gains = [abs(each.predicted_tokens_per_step / each.tokens_per_step - 1) for each in results]
    swept = len(results) // len(choices) + 1
    return [
        f"error over {len(results)} predictions: median {statistics.median(errors):.1%}, most {max(errors):.1%}; "
        f"of tokens per step: median {statistics.median(gains):.1%}, most {max(gains):.1%}",
        *(
            f"{each.load} at once: chosen {each.chosen.way} {each.chosen.measured:.1f}, best of the sweep "
            f"{each.best.way} {each.best.measured:.1f}: {each.chosen.measured / each.best.measured:.3f} of it with "
            f"{each.measured} of {swept} measurements ({each.measured / swept:.2f})"
            for each in choices
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--prompts", choices=["own", "humaneval"], default="own")
    parser.add_argument("--count", type=positive_int, default=4, help="of prompts")
    parser.add_argument("--max-tokens", type=positive_int, default=64)
    parser.add_argument("--loads", type=positive_int, nargs="+", default=[1, 4], help="sequences at once")
    parser.add_argument("--configs", nargs="+", type=Drafting.parse, default=WAYS, help="W,N,G or draft:N, each")
    parser.add_argument("--rounds", type=positive_int, default=2)
    parser.add_argument("--precision", choices=STEP_PRECISIONS, default="bf16")
    parser.add_argument("--threads", type=thread_count, default=1, help="of a step on a CPU")
    add_device(parser)
    parser.add_argument("--json", type=new_file, help="a file for every figure")
    args = parser.parse_args()
    configs = [PLAIN, *(way.lookahead for way in args.configs if way.lookahead)]
    tokenizer = TextTokenizer(args.model)
    texts = coding_prompts() if args.prompts == "own" else humaneval_chats(args.count)
    prompts = [tokenizer.encode(text) for text in list(texts.values())[: args.count]]
    options = TorchEngineOptions(threads=args.threads, device=args.device, tokenizer=args.model)
    slots = max(len(prompts), *args.loads)  # every prompt stays in one, so that none is computed twice
    with checkpoint_engine(args.model, args.precision, configs, options, slots) as engine:
        results = measure(engine, prompts, args.configs, args)
    choices = [Choice.by_model(results, load) for load in args.loads]
    told = (
        f"{args.model.name}, {args.precision}, {len(prompts)} prompts x {args.max_tokens} tokens x {args.rounds} "
        f"rounds; {machine(args.device, args.threads)}, Python {platform.python_version()}"
    )
    print(told)
    Console(width=110).print(report(results))
    lines = summary(results, choices)
    print("\n".join(lines))
    if args.json:
        found = {"run": told, "results": [asdict(each) for each in results], "summary": lines}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
