"""The portable engine against its peers and against itself: batching, prefix reuse, memory.

    scripts/bench portable [--rounds 5] [--requests 10000] [--precision bf16]

Peers run the same weights, each with its fastest thread count, in turn with the engine, prompt by prompt.
Times are those of whole requests, prompt processing included, and nobody reuses an earlier prompt. llama.cpp takes part
where it is installed (`pip install -e '.[peers]'` builds it from its source package), in the faster of F16 and BF16.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.precision import PRECISIONS
from build_engine.profiles import find_profile
from build_engine.weights import own_weights
from nimble_coder.bench.arguments import positive_int, thread_count
from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.bench.llama_cpp import FORMATS, LlamaCpp, write_gguf
from nimble_coder.bench.ratio import Ratio
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import generate
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.environment import DEFAULT_CACHE, env_names
from nimble_coder.text.tokenizer import TextTokenizer

COUNT = 96
PAGE = resource.getpagesize()
progress = Console(stderr=True)

Prompt = list[int]
Ask = Callable[[Prompt], object]
"""Generates `COUNT` tokens behind a prompt."""


def resident_bytes() -> int:
    """This process's resident memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fastest(candidates: dict[str, Ask], prompt: Prompt, what: str) -> Ask:
    """The candidate that is fastest at one prompt; each is tried three times."""
    times = {}
    for name, ask in candidates.items():
        ask(prompt)
        times[name] = min(seconds(partial(ask, prompt)) for _ in range(3))
    best = min(times, key=lambda name: times[name])
    progress.print(f"{what}: {best} is fastest, {COUNT / times[best]:.0f} tokens/s", style="dim")
    return candidates[best]


def thread_counts() -> range:
    return range(1, (os.cpu_count() or 1) + 1)


@contextmanager
def engine_of(artifact: Artifact, threads: int, reuse: bool = False) -> Iterator[TorchEngine]:
    """The engine, loaded and warm."""
    options = TorchEngineOptions(threads=threads, reuse_kv_cache=reuse)
    engine = TorchEngine(artifact.engine, artifact.manifest.profile.lookahead, options)
    try:
        generate(engine, [Request([1, 2, 3, 4, 5, 6, 7], 8)])
        yield engine
    finally:
        engine.shutdown()


def ask_engine(engine: TorchEngine, config: LookaheadConfig) -> Ask:
    return lambda ids: generate(engine, [Request(ids, COUNT, lookahead=config)])


def ask_transformers(model: Any, threads: int, **options: Any) -> Ask:
    def ask(ids: Prompt) -> object:
        torch.set_num_threads(threads)
        tokens = torch.tensor([ids])
        mask = torch.ones_like(tokens)
        return model.generate(
            tokens, attention_mask=mask, max_new_tokens=COUNT, min_new_tokens=COUNT, do_sample=False, **options
        )

    return ask


@dataclass(frozen=True)
class Contest:
    """Everybody's fastest way to answer."""

    plain: Ask
    lookahead: Ask
    transformers: Ask
    prompt_lookup: Ask
    llama_cpp: Ask | None

    def run(self, prompts: list[Prompt], rounds: int) -> dict[str, list[float]]:
        """Ratios of times, one per prompt and round."""
        ratios: dict[str, list[float]] = {}
        for ids in track([ids for _ in range(rounds) for ids in prompts], "peers", console=progress):
            plain, fast = seconds(partial(self.plain, ids)), seconds(partial(self.lookahead, ids))
            found = {
                "lookahead / plain": plain / fast,
                "plain / transformers": seconds(partial(self.transformers, ids)) / plain,
                "lookahead / transformers with prompt lookup": seconds(partial(self.prompt_lookup, ids)) / fast,
            }
            if self.llama_cpp:
                theirs = seconds(partial(self.llama_cpp, ids))
                found |= {"lookahead / llama.cpp": theirs / fast, "plain / llama.cpp": theirs / plain}
            for name, ratio in found.items():
                ratios.setdefault(name, []).append(ratio)
        return ratios


def llama_cpp(checkpoint: Path, directory: Path, prompt: Prompt) -> Ask | None:
    """llama.cpp in its best format with its best thread count, where it is installed."""
    candidates: dict[str, Ask] = {}
    try:
        for kind in FORMATS:
            write_gguf(checkpoint, kind, directory / f"{kind}.gguf")
            for n in thread_counts():
                peer = LlamaCpp(directory / f"{kind}.gguf", n)
                candidates[f"{kind}, {n} thread(s)"] = lambda ids, peer=peer: peer.generate(ids, COUNT)  # type: ignore[misc]
    except ImportError as error:
        progress.print(f"llama.cpp takes no part: {error}; pip install -e '.[peers]'", style="yellow")
        return None
    return fastest(candidates, prompt, "llama.cpp")


def concurrency(engine: TorchEngine, prompts: list[Prompt], config: LookaheadConfig, rounds: int) -> list[float]:
    """Tokens per second of 8 requests together over those of one at a time."""
    ratios = []
    requests = [Request(ids, COUNT, lookahead=config) for ids in prompts[:8]]
    for _ in track(range(rounds), f"8 streams, {config}", console=progress):
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


def memory(engine: TorchEngine, prompts: list[Prompt], count: int) -> float:
    """Resident memory after `count` requests over that after 100, requests being short and 8 at once."""
    first = 0
    for number in track(range(0, count, 8), "memory", console=progress):
        batch = [Request([*prompts[i % len(prompts)][:40], number % 4000], 4) for i in range(8)]
        generate(engine, batch)
        if number <= 100:
            first = resident_bytes()
    return resident_bytes() / first


def contest(artifact: Artifact, checkpoint: Path, prompts: list[Prompt], args: argparse.Namespace) -> Any:
    """The peers' table, with each at its best."""
    dtype: torch.dtype = getattr(torch, PRECISIONS[args.precision].dtype)
    model: Any = transformers.Qwen2ForCausalLM.from_pretrained(checkpoint, dtype=dtype)
    trial = prompts[0]
    theirs = {f"{n} thread(s)": ask_transformers(model, n) for n in thread_counts()}
    lookups = {f"{n} thread(s)": ask_transformers(model, n, prompt_lookup_num_tokens=10) for n in thread_counts()}
    with tempfile.TemporaryDirectory() as directory, engine_of(artifact, args.threads) as engine:
        return Contest(
            plain=ask_engine(engine, PLAIN),
            lookahead=ask_engine(engine, args.lookahead),
            transformers=fastest(theirs, trial, "transformers"),
            prompt_lookup=fastest(lookups, trial, "transformers with prompt lookup"),
            llama_cpp=llama_cpp(checkpoint, Path(directory), trial),
        ).run(prompts, args.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive_int, default=5)
    parser.add_argument("--requests", type=positive_int, default=10_000, help="requests of the memory measurement")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="of the engine and transformers")
    parser.add_argument("--threads", type=thread_count, default=1, help="the engine's")
    parser.add_argument("--lookahead", type=LookaheadConfig.parse, default=LookaheadConfig(1, 4, 1), metavar="W,N,G")
    kept = next((os.environ[name] for name in env_names("cache_path") if os.environ.get(name)), DEFAULT_CACHE)
    parser.add_argument("--cache", type=Path, default=Path(kept))
    args = parser.parse_args()
    cache, profile = Cache(args.cache), replace(find_profile("demo"), name="bench", precision=args.precision)
    artifact = build(profile, None, cache, lambda text: progress.print(f"  {text}", style="dim"))
    checkpoint = own_weights(profile, "main", cache, progress.print).directory
    tokenizer = TextTokenizer(artifact.tokenizer)
    prompts = [tokenizer.encode(text) for text in coding_prompts().values()]
    table = Table(title=f"embedded model, {args.precision}, engine on {args.threads} thread(s), {args.lookahead}")
    for heading in ("ratio", "median", "least", "most", "of"):
        table.add_column(heading, justify="left" if heading == "ratio" else "right")

    def row(name: str, ratios: list[float]) -> None:
        table.add_row(name, *Ratio.of(ratios).cells, str(len(ratios)))

    for name, ratios in contest(artifact, checkpoint, prompts, args).items():
        row(name, ratios)
    with engine_of(artifact, args.threads, reuse=True) as engine:
        for config in (PLAIN, args.lookahead):
            ratios = concurrency(engine, prompts, config, args.rounds)
            row(f"8 concurrent streams / one at a time, {'plain' if config.is_plain else config}", ratios)
        row("TTFT of 1,000 tokens, 95 % shared / cold", first_token(engine, args.rounds))
    with engine_of(artifact, args.threads, reuse=True) as engine:
        row(f"resident memory after {args.requests} requests / after 100", [memory(engine, prompts, args.requests)])
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
