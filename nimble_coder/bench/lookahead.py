"""Plain against lookahead decoding, one request at a time, on the coding prompts.

    scripts/bench lookahead [--rounds 5] [--configs 4,3,4 8,8,8]

Every prompt runs under every configuration in every round, the order turning with each, so that a machine whose speed
drifts cannot favour one of them. Time runs from a request's first token to its last.
"""

import argparse
import platform
import statistics
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.build import Artifact, build
from build_engine.cache import Cache
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.profiles import find_profile
from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.engine.generate import Generation, generate
from nimble_coder.engine.protocol import Engine, Request
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.text.tokenizer import TextTokenizer

CONFIGS = ("1,3,1", "1,4,1", "1,5,1", "1,4,4", "4,3,4", "3,5,3", "8,8,8")

Runs = dict[tuple[LookaheadConfig, str], list[Generation]]


def measure(
    engine: Engine, prompts: dict[str, list[int]], configs: list[LookaheadConfig], args: argparse.Namespace
) -> Runs:
    """Generations per configuration and prompt; raises `RuntimeError` where lookahead changed an output."""
    runs: Runs = {(config, name): [] for config in configs for name in prompts}
    cases = [(r, i, name) for r in range(args.rounds) for i, name in enumerate(prompts)]
    for round_, index, name in track(cases, "measuring", console=Console(stderr=True)):
        turn = (round_ + index) % len(configs)
        for config in configs[turn:] + configs[:turn]:
            request = Request(prompts[name], args.max_tokens, lookahead=config)
            runs[config, name] += generate(engine, [request])
    for (config, name), found in runs.items():
        if args.precision == "fp32" and found[0].token_ids != runs[PLAIN, name][0].token_ids:
            raise RuntimeError(f"lookahead {config} changed the output of {name}")
    return runs


def speed(runs: list[Generation]) -> float:
    """Median tokens per second."""
    return statistics.median((len(run.token_ids) - 1) / run.decode_seconds for run in runs)


def report(runs: Runs, configs: list[LookaheadConfig], prompts: list[str]) -> Table:
    table = Table(title="one request at a time, medians over the prompts")
    for heading in ("(W,N,G)", "drafts D", "tokens/s", "tokens/step", "speed-up", "least", "most"):
        table.add_column(heading, justify="right")
    for config in configs:
        ratios = [speed(runs[config, name]) / speed(runs[PLAIN, name]) for name in prompts]
        table.add_row(
            "plain" if config.is_plain else str(config),
            str(config.max_draft_tokens),
            f"{statistics.median(speed(runs[config, name]) for name in prompts):.0f}",
            f"{statistics.median(runs[config, name][0].tokens_per_step for name in prompts):.2f}",
            f"{statistics.median(ratios):.2f}x",
            f"{min(ratios):.2f}x",
            f"{max(ratios):.2f}x",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=1, help="of a step on a CPU")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--configs", nargs="+", default=CONFIGS, metavar="W,N,G")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/nimble-coder"))
    args = parser.parse_args()
    configs = [PLAIN, *(LookaheadConfig.parse(text) for text in args.configs)]
    artifact = build_for(args, configs)
    tokenizer = TextTokenizer(artifact.tokenizer)
    prompts = {name: tokenizer.encode(text) for name, text in coding_prompts().items()}
    engine = TorchEngine(
        artifact.engine, artifact.manifest.lookahead, TorchEngineOptions(threads=args.threads, device=args.device)
    )
    try:
        generate(engine, [Request(ids, 8) for ids in prompts.values()])  # first use of every code path and slot
        runs = measure(engine, prompts, configs, args)
    finally:
        engine.shutdown()
    print(
        f"embedded model, {args.precision}, {args.threads} thread(s), {len(prompts)} prompts x {args.max_tokens} "
        f"tokens x {args.rounds} rounds, Python {platform.python_version()}, {platform.machine()}"
    )
    Console(width=100).print(report(runs, configs, list(prompts)))


def build_for(args: argparse.Namespace, configs: list[LookaheadConfig]) -> Artifact:
    """The embedded model's engine, large enough for every configuration."""
    largest = LookaheadConfig(
        max(c.window_size for c in configs),
        max(c.ngram_size for c in configs),
        max(c.verification_set_size for c in configs),
    )
    profile = replace(find_profile("demo"), name="bench", lookahead=largest, precision=args.precision)
    return build(profile, None, Cache(args.cache), lambda text: Console(stderr=True).print(f"  {text}", style="dim"))


if __name__ == "__main__":
    main()
