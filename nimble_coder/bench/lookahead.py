"""Plain against lookahead decoding, one request at a time.

    scripts/bench lookahead [--model DIRECTORY --prompts humaneval|infill|...] [--rounds 5] [--configs 4,3,4 8,8,8]

Without a model the embedded one, a toy that repeats itself, which flatters lookahead. Every prompt runs under every
configuration in every round, the order turning with each, so that a machine whose speed drifts cannot favour one of
them. Time runs from a request's first token to its last. In fp32 an output that differs from plain decoding's is an
error; in bf16 they are counted, since on a GPU a step of another size rounds otherwise. Where outputs are sampled,
plain greedy decoding takes its turn too, which says what sampling itself costs.
"""

import argparse
import platform
import statistics
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.lookahead import PLAIN
from build_engine.precision import STEP_PRECISIONS
from nimble_coder.bench.arguments import add_device, positive_int, thread_count
from nimble_coder.bench.checkpoint_engine import add_model, checkpoint_engine
from nimble_coder.bench.coding_prompts import coding_prompts, humaneval_chats
from nimble_coder.bench.infill import KINDS, holes
from nimble_coder.bench.load.drafting import WAYS, Drafting
from nimble_coder.bench.load.scenarios import Prompt, scenarios
from nimble_coder.bench.ratio import Ratio
from nimble_coder.contract.request import Request, RequestError, Sampling
from nimble_coder.engine.generate import Generation, generate
from nimble_coder.engine.protocol import Engine
from nimble_coder.engine.torch_engine import TorchEngineOptions
from nimble_coder.text.tokenizer import TextTokenizer

PLAINLY, BY_CHOICE = Drafting.parse("plain"), Drafting.parse("default")
GREEDILY = Drafting("plain, greedy", PLAIN)
"""Beside sampled outputs."""
CONFIGS = [Drafting.parse(text) for text in ("1,3,1", "1,4,1", "1,5,1", "1,4,4", "4,3,4", "3,5,3", "8,8,8")]


def infills(count: int) -> dict[str, str]:
    """Holes of six lines in so many functions of Python's standard library."""
    found = holes(len(KINDS) * count, Path(sysconfig.get_path("stdlib")))
    return {
        hole.name: Prompt(hole.name, prefix=hole.prefix, suffix=hole.suffix).text
        for hole in found
        if hole.kind == "six lines"
    }


def of_scenario(scenario: str, count: int) -> dict[str, str]:
    """What `nimble-coder bench` asks, so many of a kind."""
    return {prompt.name: prompt.text for prompt in scenarios()[scenario].take(count)}


PROMPTS: dict[str, Callable[[int], dict[str, str]]] = {
    "own": lambda _: coding_prompts(),
    "humaneval": humaneval_chats,
    "infill": infills,
    **{scenario: partial(of_scenario, scenario) for scenario in ("chat", "completion", "edit")},
}
"""By name, so many of a kind."""

Runs = dict[tuple[Drafting, str], list[Generation]]


def measure(engine: Engine, prompts: dict[str, list[int]], modes: list[Drafting], args: argparse.Namespace) -> Runs:
    """Generations per configuration and prompt; raises `RuntimeError` where lookahead changed an output in fp32."""
    runs: Runs = {(mode, name): [] for mode in modes for name in prompts}
    cases = [(r, i, name) for r in range(args.rounds) for i, name in enumerate(prompts)]
    for round_, index, name in track(cases, "measuring", console=Console(stderr=True)):
        turn = (round_ + index) % len(modes)
        for mode in modes[turn:] + modes[:turn]:
            sampling = None if mode is GREEDILY else args.sampling
            request = Request(prompts[name], args.max_tokens, sampling=sampling, seed=index, **mode.request)
            runs[mode, name] += generate(engine, [request])
    for (mode, name), found in runs.items():
        if args.precision == "fp32" and mode is not GREEDILY and found[0].token_ids != runs[PLAINLY, name][0].token_ids:
            raise RuntimeError(f"drafting with {mode.name} changed the output of {name}")
    return runs


def speed(runs: list[Generation]) -> float:
    """Median tokens per second."""
    return statistics.median((len(run.token_ids) - 1) / run.decode_seconds for run in runs)


def report(runs: Runs, modes: list[Drafting], prompts: list[str]) -> Table:
    table = Table(title="one request at a time, medians over the prompts")
    for heading in ("drafting", "drafts D", "tokens/s", "tokens/step", "speed-up", "least", "most", "equal outputs"):
        table.add_column(heading, justify="right")
    for mode in modes:
        ratios = [speed(runs[mode, name]) / speed(runs[PLAINLY, name]) for name in prompts]
        equal = sum(runs[mode, name][0].token_ids == runs[PLAINLY, name][0].token_ids for name in prompts)
        table.add_row(
            mode.name,
            "" if mode.max_draft_tokens is None else str(mode.max_draft_tokens),
            f"{statistics.median(speed(runs[mode, name]) for name in prompts):.0f}",
            f"{statistics.median(runs[mode, name][0].tokens_per_step for name in prompts):.2f}",
            *Ratio.of(ratios).cells,
            f"{equal} of {len(prompts)}",
        )
    return table


def machine(device: str, threads: int) -> str:
    """What the figures were measured on."""
    if device != "cpu" and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}"
    return f"{platform.machine()}, {threads} thread(s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--prompts", choices=PROMPTS, default="own")
    parser.add_argument("--count", type=positive_int, default=20, help="of prompts that are not the project's own")
    parser.add_argument("--rounds", type=positive_int, default=5)
    parser.add_argument("--max-tokens", type=positive_int, default=128)
    parser.add_argument("--precision", choices=[*STEP_PRECISIONS, "fp8"], default="fp32")
    parser.add_argument("--temperature", type=float, default=0.0, help="sample, each prompt with a seed of its own")
    parser.add_argument("--top-p", type=float, default=1.0, help="where sampled")
    parser.add_argument("--threads", type=thread_count, default=1, help="of a step on a CPU")
    add_device(parser)
    parser.add_argument("--configs", nargs="+", type=Drafting.parse, default=CONFIGS, help=f"{WAYS}, each")
    args = parser.parse_args()
    try:
        args.sampling = Sampling(temperature=args.temperature, top_p=args.top_p) if args.temperature else None
    except RequestError as error:
        parser.error(str(error))
    greedily = [GREEDILY] if args.sampling else []
    modes = list(dict.fromkeys([PLAINLY, *greedily, *args.configs, BY_CHOICE]))
    tokenizer = TextTokenizer(args.model)
    texts = PROMPTS[args.prompts](args.count)
    prompts = {name: tokenizer.encode(text) for name, text in texts.items()}
    options = TorchEngineOptions(threads=args.threads, device=args.device, tokenizer=args.model)
    configs = [mode.lookahead for mode in modes if mode.lookahead]
    with checkpoint_engine(args.model, args.precision, configs, options) as engine:
        generate(engine, [Request(ids, 8) for ids in list(prompts.values())[:8]])  # first use of code paths and slots
        for mode in modes:
            generate(engine, [Request(next(iter(prompts.values())), 16, **mode.request)])
        runs = measure(engine, prompts, modes, args)
    print(
        f"{args.model.name}, {args.precision}, temperature {args.temperature:g}, {len(prompts)} prompts x "
        f"{args.max_tokens} tokens x {args.rounds} rounds; {machine(args.device, args.threads)}, "
        f"Python {platform.python_version()}"
    )
    Console(width=110).print(report(runs, modes, list(prompts)))


if __name__ == "__main__":
    main()
