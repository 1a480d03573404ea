"""Many requests at once: what the engine gives in total, plain and with lookahead, by the number of streams.

    scripts/bench streams [--model DIRECTORY --prompts humaneval] [--streams 1 4 16] [--configs 1,1,0 4,3,4]

All streams start together and generate the same number of tokens, the end of the text ignored; medians of the rounds.
"""

import argparse
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from build_engine.lookahead import LookaheadConfig
from build_engine.precision import STEP_PRECISIONS
from nimble_coder.bench.checkpoint_engine import EMBEDDED_MODEL, checkpoint_engine
from nimble_coder.bench.coding_prompts import coding_prompts, humaneval_chats
from nimble_coder.bench.lookahead import machine
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import generate
from nimble_coder.engine.protocol import Engine
from nimble_coder.engine.torch_engine import TorchEngineOptions
from nimble_coder.text.tokenizer import TextTokenizer


def throughput(
    engine: Engine, prompts: list[list[int]], count: int, config: LookaheadConfig, args: argparse.Namespace
) -> float:
    """Median tokens per second of `count` requests together, prompts included."""
    requests = [Request(prompts[i % len(prompts)], args.max_tokens, lookahead=config) for i in range(count)]
    rates = []
    for _ in range(args.rounds + 1):  # the first round is the first use of some shapes
        started = time.perf_counter()
        found = generate(engine, requests)
        rates.append(sum(len(each.token_ids) for each in found) / (time.perf_counter() - started))
    return statistics.median(rates[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, help="a checkpoint; without one the embedded toy")
    parser.add_argument("--prompts", choices=["own", "humaneval"], default="own")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--configs", nargs="+", default=["1,1,0", "4,3,4", "8,8,8"], metavar="W,N,G")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--precision", choices=STEP_PRECISIONS, default="bf16")
    parser.add_argument("--threads", type=int, default=1, help="of a step on a CPU")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args()
    configs = [LookaheadConfig.parse(text) for text in args.configs]
    tokenizer = TextTokenizer(args.model)
    texts = coding_prompts() if args.prompts == "own" else humaneval_chats(max(args.streams))
    prompts = [tokenizer.encode(text) for text in texts.values()]
    options = TorchEngineOptions(threads=args.threads, device=args.device)
    table = Table(title=f"{args.model.name}, {args.precision}, total tokens/s; {machine(args.device, args.threads)}")
    table.add_column("streams", justify="right")
    for config in configs:
        table.add_column("plain" if config.is_plain else str(config), justify="right")
        table.add_column("over 1", justify="right")
    with checkpoint_engine(args.model, args.precision, configs, options, max(args.streams)) as engine:
        alone: dict[LookaheadConfig, float] = {}
        for count in args.streams:
            cells = [str(count)]
            for config in configs:
                rate = throughput(engine, prompts, count, config, args)
                alone.setdefault(config, rate)
                cells += [f"{rate:.0f}", f"{rate / alone[config]:.1f}x"]
            table.add_row(*cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
