"""The portable engine against its peers and against itself: batching, prefix reuse, memory.

    scripts/bench portable [--rounds 5] [--requests 10000]

Peers run the same weights in the same precision and with the same number of threads, in turn with the engine, prompt by
prompt. Only `transformers` is a peer so far.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import Qwen2ForCausalLM

from build_engine.build import build
from build_engine.cache import Cache
from build_engine.engine_config import DTYPES
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.profiles import find_profile
from build_engine.weights import own_weights
from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.engine.generate import generate
from nimble_coder.engine.protocol import Request
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.text.tokenizer import TextTokenizer

COUNT = 96
PAGE = resource.getpagesize()
progress = Console(stderr=True)


def resident_bytes() -> int:
    """This process's resident memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def against_transformers(
    engine: TorchEngine, prompts: list[list[int]], config: LookaheadConfig, args: argparse.Namespace, dtype: torch.dtype
) -> dict[str, list[float]]:
    """Ratios of whole-request times, prompt processing included, one per prompt and round."""
    weights = own_weights(find_profile(args.profile), "main", Cache(args.cache), progress.print)
    peer: Any = Qwen2ForCausalLM.from_pretrained(weights.directory, dtype=dtype)

    def ask(ids: list[int], **options: Any) -> object:
        tokens = torch.tensor([ids])
        return peer.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=COUNT,
            min_new_tokens=COUNT,
            do_sample=False,
            **options,
        )

    ratios: dict[str, list[float]] = {"plain / transformers": [], "lookahead / transformers prompt lookup": []}
    cases = [ids for _ in range(args.rounds) for ids in prompts]
    for ids in track(cases, "against transformers", console=progress):
        plain = seconds(lambda ids=ids: generate(engine, [Request(ids, COUNT, lookahead=PLAIN)]))  # type: ignore[misc]
        theirs = seconds(lambda ids=ids: ask(ids))  # type: ignore[misc]
        fast = seconds(lambda ids=ids: generate(engine, [Request(ids, COUNT, lookahead=config)]))  # type: ignore[misc]
        lookup = seconds(lambda ids=ids: ask(ids, prompt_lookup_num_tokens=10))  # type: ignore[misc]
        ratios["plain / transformers"].append(theirs / plain)
        ratios["lookahead / transformers prompt lookup"].append(lookup / fast)
    return ratios


def concurrency(engine: TorchEngine, prompts: list[list[int]], config: LookaheadConfig, rounds: int) -> list[float]:
    """Tokens per second of 8 requests together over those of one at a time."""
    ratios = []
    requests = [Request(ids, COUNT, lookahead=config) for ids in prompts[:8]]
    for _ in track(range(rounds), "8 streams", console=progress):
        together = seconds(lambda: generate(engine, requests))
        alone = sum(seconds(lambda r=request: generate(engine, [r])) for request in requests)  # type: ignore[misc]
        ratios.append(alone / together)
    return ratios


def first_token(engine: TorchEngine, rounds: int) -> list[float]:
    """Time to first token of a 1,000-token prompt of which 95 % are in the cache over that of a new one."""
    ratios = []
    for round_ in track(range(rounds), "time to first token", console=progress):
        tokens = torch.randint(0, 4000, (1050,), generator=torch.Generator().manual_seed(round_)).tolist()
        cold = seconds(lambda t=tokens: generate(engine, [Request(t[:1000], 1)]))  # type: ignore[misc]
        warm_prompt = tokens[:950] + tokens[1000:]
        warm = seconds(lambda t=warm_prompt: generate(engine, [Request(t, 1)]))  # type: ignore[misc]
        ratios.append(warm / cold)
    return ratios


def memory(engine: TorchEngine, prompts: list[list[int]], count: int) -> float:
    """Resident memory after `count` requests over that after 100, requests being short and 8 at once."""
    first = 0
    for number in track(range(0, count, 8), "memory", console=progress):
        batch = [Request([*prompts[i % len(prompts)][:40], number % 4000], 4) for i in range(8)]
        generate(engine, batch)
        if number <= 100:
            first = resident_bytes()
    return resident_bytes() / first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000, help="requests of the memory measurement")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads, for the engine and its peers")
    parser.add_argument("--lookahead", type=LookaheadConfig.parse, default=LookaheadConfig(4, 3, 4), metavar="W,N,G")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/nimble-coder"))
    args = parser.parse_args()
    profile = find_profile(args.profile)
    artifact = build(profile, None, Cache(args.cache), lambda text: progress.print(f"  {text}", style="dim"))
    tokenizer = TextTokenizer(artifact.tokenizer)
    prompts = [tokenizer.encode(text) for text in coding_prompts().values()]
    options = TorchEngineOptions(threads=args.threads)
    engine = TorchEngine(artifact.engine, artifact.manifest.lookahead, options)
    fresh = TorchEngine(artifact.engine, artifact.manifest.lookahead, TorchEngineOptions(threads=args.threads))
    table = Table(title=f"{args.profile} ({profile.precision}), {args.threads} thread(s), lookahead {args.lookahead}")
    for heading in ("ratio", "median", "least", "most", "of"):
        table.add_column(heading, justify="left" if heading == "ratio" else "right")

    def row(name: str, ratios: list[float]) -> None:
        figures = (statistics.median(ratios), min(ratios), max(ratios))
        table.add_row(name, *(f"{figure:.2f}x" for figure in figures), str(len(ratios)))

    try:
        generate(engine, [Request(ids, 8) for ids in prompts])
        dtype: torch.dtype = getattr(torch, DTYPES[profile.precision])
        for name, ratios in against_transformers(engine, prompts, args.lookahead, args, dtype).items():
            row(name, ratios)
        row(
            "8 concurrent streams / one at a time, lookahead", concurrency(engine, prompts, args.lookahead, args.rounds)
        )
        row("8 concurrent streams / one at a time, plain", concurrency(engine, prompts, PLAIN, args.rounds))
        row("TTFT of 1,000 tokens, 95 % shared / cold", first_token(engine, args.rounds))
        row(f"resident memory after {args.requests} requests / after 100", [memory(fresh, prompts, args.requests)])
    finally:
        engine.shutdown()
        fresh.shutdown()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
