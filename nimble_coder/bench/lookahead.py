"""Plain against lookahead decoding, one request at a time.

    scripts/bench lookahead [--model DIRECTORY --prompts humaneval] [--rounds 5] [--configs 4,3,4 8,8,8]

Without a model the embedded one, a toy that repeats itself, which flatters lookahead. Every prompt runs under every
configuration in every round, the order turning with each, so that a machine whose speed drifts cannot favour one of
them. Time runs from a request's first token to its last. In fp32 an output that differs from plain decoding's is an
error; in bf16 they are counted, since on a GPU a step of another size rounds otherwise.
"""

import argparse
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.precision import STEP_PRECISIONS
from nimble_coder.bench.checkpoint_engine import EMBEDDED_MODEL, checkpoint_engine
from nimble_coder.bench.coding_prompts import coding_prompts, humaneval_chats
from nimble_coder.contract.request import Request, Sampling
from nimble_coder.engine.generate import Generation, generate
from nimble_coder.engine.protocol import Engine
from nimble_coder.engine.torch_engine import TorchEngineOptions
from nimble_coder.text.tokenizer import TextTokenizer

CONFIGS = ("1,3,1", "1,4,1", "1,5,1", "1,4,4", "4,3,4", "3,5,3", "8,8,8")

Mode = LookaheadConfig | int | None
"""(W, N, G), or the most draft tokens by matching suffixes, or the engine's choice."""
Runs = dict[tuple[Mode, str], list[Generation]]


def measure(engine: Engine, prompts: dict[str, list[int]], modes: list[Mode], args: argparse.Namespace) -> Runs:
    """Generations per configuration and prompt; raises `RuntimeError` where lookahead changed an output in fp32."""
    runs: Runs = {(mode, name): [] for mode in modes for name in prompts}
    cases = [(r, i, name) for r in range(args.rounds) for i, name in enumerate(prompts)]
    for round_, index, name in track(cases, "measuring", console=Console(stderr=True)):
        turn = (round_ + index) % len(modes)
        for mode in modes[turn:] + modes[:turn]:
            request = Request(prompts[name], args.max_tokens, sampling=args.sampling, seed=index, **drafting(mode))
            runs[mode, name] += generate(engine, [request])
    for (mode, name), found in runs.items():
        if args.precision == "fp32" and found[0].token_ids != runs[PLAIN, name][0].token_ids:
            raise RuntimeError(f"drafting with {label(mode)} changed the output of {name}")
    return runs


def drafting(mode: Mode) -> dict[str, Any]:
    """The mode as fields of a request."""
    if mode is None:
        return {}
    return {"draft_tokens": mode} if isinstance(mode, int) else {"lookahead": mode}


def label(mode: Mode) -> str:
    if mode is None:
        return "default"
    if isinstance(mode, int):
        return f"suffixes, {mode}"
    return "plain" if mode.is_plain else str(mode)


def speed(runs: list[Generation]) -> float:
    """Median tokens per second."""
    return statistics.median((len(run.token_ids) - 1) / run.decode_seconds for run in runs)


def report(runs: Runs, modes: list[Mode], prompts: list[str]) -> Table:
    table = Table(title="one request at a time, medians over the prompts")
    for heading in ("(W,N,G)", "drafts D", "tokens/s", "tokens/step", "speed-up", "least", "most", "equal outputs"):
        table.add_column(heading, justify="right")
    for mode in modes:
        ratios = [speed(runs[mode, name]) / speed(runs[PLAIN, name]) for name in prompts]
        equal = sum(runs[mode, name][0].token_ids == runs[PLAIN, name][0].token_ids for name in prompts)
        table.add_row(
            label(mode),
            str(mode.max_draft_tokens if isinstance(mode, LookaheadConfig) else mode or ""),
            f"{statistics.median(speed(runs[mode, name]) for name in prompts):.0f}",
            f"{statistics.median(runs[mode, name][0].tokens_per_step for name in prompts):.2f}",
            f"{statistics.median(ratios):.2f}x",
            f"{min(ratios):.2f}x",
            f"{max(ratios):.2f}x",
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
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, help="a checkpoint; without one the embedded toy")
    parser.add_argument("--prompts", choices=["own", "humaneval"], default="own")
    parser.add_argument("--count", type=int, default=20, help="problems of HumanEval")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--precision", choices=STEP_PRECISIONS, default="fp32")
    parser.add_argument("--temperature", type=float, default=0.0, help="sample, each prompt with a seed of its own")
    parser.add_argument("--threads", type=int, default=1, help="of a step on a CPU")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--configs", nargs="+", default=CONFIGS, metavar="W,N,G")
    parser.add_argument("--draft-tokens", type=int, nargs="*", default=[], help="drafting by matching suffixes, too")
    args = parser.parse_args()
    args.sampling = Sampling(temperature=args.temperature) if args.temperature else None
    configs = [PLAIN, *(LookaheadConfig.parse(text) for text in args.configs)]
    tokenizer = TextTokenizer(args.model)
    texts = coding_prompts() if args.prompts == "own" else humaneval_chats(args.count)
    prompts = {name: tokenizer.encode(text) for name, text in texts.items()}
    options = TorchEngineOptions(threads=args.threads, device=args.device)
    with checkpoint_engine(args.model, args.precision, configs, options) as engine:
        generate(engine, [Request(ids, 8) for ids in list(prompts.values())[:8]])  # first use of code paths and slots
        modes: list[Mode] = [*configs, *args.draft_tokens, None]
        for mode in modes:
            generate(engine, [Request(next(iter(prompts.values())), 16, **drafting(mode))])
        runs = measure(engine, prompts, modes, args)
    print(
        f"{args.model.name}, {args.precision}, temperature {args.temperature:g}, {len(prompts)} prompts x "
        f"{args.max_tokens} tokens x {args.rounds} rounds; {machine(args.device, args.threads)}, "
        f"Python {platform.python_version()}"
    )
    Console(width=110).print(report(runs, modes, list(prompts)))


if __name__ == "__main__":
    main()
