"""Many requests at once: what the engine gives in total, plain and with lookahead, by the number of streams.

    scripts/bench streams [--model DIRECTORY --prompts humaneval] [--streams 1 4 16] [--configs 1,1,0 4,3,4]

Each stream asks for one answer after the other, all of the same number of tokens, the end of the text ignored; medians
of the rounds.
"""

import argparse
import statistics
import time
from itertools import islice

from rich.console import Console
from rich.table import Table

from build_engine.lookahead import LookaheadConfig
from build_engine.precision import STEP_PRECISIONS
from nimble_coder.bench.arguments import add_device, positive_int, thread_count
from nimble_coder.bench.checkpoint_engine import add_model, checkpoint_engine
from nimble_coder.bench.coding_prompts import coding_prompts, humaneval_chats
from nimble_coder.bench.lookahead import machine
from nimble_coder.contract.request import Request
from nimble_coder.engine.protocol import Engine
from nimble_coder.engine.torch_engine import TorchEngineOptions
from nimble_coder.text.tokenizer import TextTokenizer

SPARE = 6
"""Answers that few streams ask for beside two each."""


def requests_for(prompts: list[list[int]], count: int, config: LookaheadConfig, max_tokens: int) -> list[Request]:
    """What so many streams ask for; each prompt comes in turn."""
    return [Request(prompts[i % len(prompts)], max_tokens, lookahead=config) for i in range(2 * count + SPARE)]


def throughput(engine: Engine, requests: list[Request], count: int) -> float:
    """Tokens per second, prompts included, for as long as all `count` streams are busy.

    Lookahead makes some answers much sooner than others: were nobody to follow them, the slowest one would be measured.
    """
    following = iter(requests)
    open_ids = {engine.enqueue(request) for request in islice(following, count)}
    tokens, started = 0, time.perf_counter()
    while len(open_ids) == count:
        for response in engine.responses(timeout=1.0):
            tokens += len(response.token_ids)
            if response.is_final:
                open_ids.discard(response.request_id)
                open_ids |= {engine.enqueue(request) for request in islice(following, 1)}
    seconds = time.perf_counter() - started
    for request_id in open_ids:
        engine.cancel(request_id)
    while open_ids:
        open_ids -= {response.request_id for response in engine.responses(timeout=1.0) if response.is_final}
    return tokens / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--prompts", choices=["own", "humaneval"], default="own")
    parser.add_argument("--streams", type=positive_int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--configs", nargs="+", default=["1,1,0", "4,3,4", "8,8,8"], metavar="W,N,G")
    parser.add_argument("--rounds", type=positive_int, default=3)
    parser.add_argument("--max-tokens", type=positive_int, default=128)
    parser.add_argument("--precision", choices=[*STEP_PRECISIONS, "fp8"], default="bf16")
    parser.add_argument("--threads", type=thread_count, default=1, help="of a step on a CPU")
    add_device(parser)
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
                requests = requests_for(prompts, count, config, args.max_tokens)
                # The first round is the first use of some shapes.
                rate = statistics.median([throughput(engine, requests, count) for _ in range(args.rounds + 1)][1:])
                alone.setdefault(config, rate)
                cells += [f"{rate:.0f}", f"{rate / alone[config]:.1f}x"]
            table.add_row(*cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
