"""What one decoding step costs by the number of its tokens, against the time to read the weights once.

    scripts/bench step [--shape 0.5b|1.5b|7b|...] [--device cpu|cuda] [--threads 1] [--precision int4]
                       [--cached 512] [--rows 1 2 4 8] [--library avx2] [--int8-kv-cache] [--pytorch] [--kernels]

Random weights of a Qwen2.5-Coder shape, made in memory: in bf16, or for the compiled step quantised. A step that reads
every weight once cannot be faster than the memory; the bandwidth is measured in the same run, by summing a block of the
same size. `--kernels` tells on a GPU where a step's time goes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from build_engine.catalog import SHAPES
from build_engine.checkpoint import ModelShape
from build_engine.eight_bits import is_rounded, quantise, scales_of
from build_engine.engines.torch import stored
from build_engine.lookahead import LookaheadConfig
from build_engine.precision import INT8, PRECISIONS, STEP_PRECISIONS
from nimble_coder.bench.arguments import add_device, natural, positive_int, thread_count
from nimble_coder.engine.batch import Batch, BatchBuilder
from nimble_coder.engine.compiled import find_step
from nimble_coder.engine.kv_cache import KVCache
from nimble_coder.engine.model import Model
from nimble_coder.engine.native import CompiledStep, NativeQwen2
from nimble_coder.engine.qwen2 import Qwen2
from nimble_coder.engine.torch_kv_cache import TorchKVCache
from nimble_coder.engine.tree import TokenTree
from nimble_coder.engine.weights import packed, tensor_sizes

CONFIGS = [LookaheadConfig(4, 3, 4), LookaheadConfig(5, 5, 5), LookaheadConfig(8, 8, 8), LookaheadConfig(15, 15, 15)]


@dataclass(frozen=True)
class Bench:
    """A model with random weights, and how to time it."""

    model: Model
    device: torch.device
    weight_bytes: int
    """Of the matrices that a step reads whole."""
    rounds: int
    cached: int
    """Tokens already in the KV cache."""

    def median(self, work: Callable[[], object]) -> float:
        """Median seconds of `work`, the device's queue drained before and after."""
        times = []
        for turn in range(self.rounds + 2):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            if turn >= 2:
                times.append(time.perf_counter() - started)
        return statistics.median(times)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def reading(self) -> tuple[float, float]:
        """Seconds to read every weight of a step once, and the bandwidth in bytes per second."""
        block = torch.empty(self.weight_bytes // 4, dtype=torch.float32, device=self.device).fill_(1.0)
        seconds = self.median(block.sum)
        return seconds, self.weight_bytes / seconds

    def batch(self, count: int) -> Batch:
        """One step of `count` tokens."""
        tree = TokenTree(1)
        for first in range(2, count + 1):
            tree.add(0, first)
        builder = BatchBuilder()
        builder.add_tree(0, self.cached, tree)
        return builder.build(wants_logits=False)

    def step(self, count: int) -> float:
        """Seconds of one step of `count` tokens, the greedy choices included."""
        batch = self.batch(count)
        return self.median(lambda: self.model.run(batch))

    def kernels(self, count: int, most: int = 9) -> Table:
        """The kernels of a step of `count` tokens that take the longest."""
        batch = self.batch(count)
        self.model.run(batch)
        rounds = 5
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(rounds):
                self.model.run(batch)
        table = Table(title=f"a step of {count} tokens")
        for heading in ("kernel", "times", "us a step"):
            table.add_column(heading, justify="left" if heading == "kernel" else "right")
        found = sorted(profile.key_averages(), key=lambda each: -each.self_device_time_total)
        for each in found[:most]:
            table.add_row(each.key[:60], str(each.count // rounds), f"{each.self_device_time_total / rounds:.0f}")
        table.add_row("all", "", f"{sum(each.self_device_time_total for each in found) / rounds:.0f}")
        return table


def make(shape: ModelShape, args: argparse.Namespace) -> Bench:
    """The model of `shape`: the compiled step on a CPU unless PyTorch's is asked for."""
    device = torch.device(args.device)
    weights = random_weights(shape, device)
    if device.type == "cpu" and not args.pytorch:
        weights = {name: stored(name, tensor, PRECISIONS[args.precision]) for name, tensor in weights.items()}
    if args.precision == "fp8":
        weights = in_eight_bits(weights)
    read = [t for name, t in weights.items() if t.ndim >= 2 and (name != "embedding" or shape.tie_word_embeddings)]
    total = sum(tensor.numel() * tensor.element_size() for tensor in read)
    positions = args.cached + max(rows_of(args)) + 8
    on_gpu = device.type == "cuda" and not args.pytorch
    cache = TorchKVCache(shape, 1, positions, torch.bfloat16, device, defer_moves=on_gpu)
    cache.keys.normal_()
    cache.values.normal_()
    if on_gpu:
        from nimble_coder.engine.cuda.model import CudaQwen2

        on_card = CudaQwen2(shape, weights, cache, max(rows_of(args)), longest_path=14)
        return Bench(on_card, device, total, args.rounds, args.cached)
    if args.pytorch or device.type != "cpu":
        torch.set_num_threads(args.threads)
        return Bench(Qwen2(shape, weights, cache), device, total, args.rounds, args.cached)
    library = chosen_library(args.library)
    own = CompiledStep(library, args.threads).make_cache(
        shape, 1, positions, INT8 if args.int8_kv_cache else "bfloat16"
    )
    fill(own, cache)
    model = NativeQwen2(library, shape, packed(weights), own, args.threads)
    return Bench(model, device, total, args.rounds, args.cached)


def chosen_library(name: str | None) -> Path:
    """The compiled step for an instruction set, the engine's own choice where None; ends where it does not run here."""
    libraries = {path.stem.split("-")[1]: path for path in find_step()}
    if not libraries:
        raise SystemExit("the step was not compiled here; --pytorch measures PyTorch's operators")
    if name and name not in libraries:
        raise SystemExit(f"error: {name} does not run here: choose one of {', '.join(libraries)}")
    return libraries[name] if name else next(iter(libraries.values()))


def fill(own: KVCache, cache: TorchKVCache) -> None:
    """Copies random keys and values, or puts others in their place that have 8 bits."""
    for mine, numbers in ((own.keys, cache.keys), (own.values, cache.values)):
        mine[..., : numbers.shape[-1]] = (
            (30 * numbers).char().numpy() if own.scales else numbers.view(torch.int16).numpy().view("uint16")
        )
    for scales in own.scales:
        scales[:] = 1 / 30


def in_eight_bits(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the layers' matrices as a GPU reads them."""
    found = {}
    for name, tensor in weights.items():
        if is_rounded(name, tensor):
            found[name], found[scales_of(name)] = quantise(tensor)
        else:
            found[name] = tensor
    return found


def random_weights(shape: ModelShape, device: torch.device) -> dict[str, torch.Tensor]:
    """The portable engine's tensors (`build_engine.engines.torch.fused_weights`), small random numbers."""
    return {
        name: torch.empty(size, dtype=torch.bfloat16, device=device).normal_(0, 0.02)
        for name, size in tensor_sizes(shape).items()
    }


def rows_of(args: argparse.Namespace) -> list[int]:
    """Tokens of the steps that are timed, the fewest first."""
    return sorted({1, *(args.rows or (8, 16, 32, 64, *(config.tokens_per_step for config in CONFIGS)))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    add_device(parser)
    parser.add_argument("--threads", type=thread_count, default=1, help="on the CPU")
    parser.add_argument("--precision", choices=[*STEP_PRECISIONS, "fp8"], default="bf16", help="of the compiled step")
    parser.add_argument("--cached", type=natural, default=512, help="tokens already in the KV cache")
    parser.add_argument("--rows", type=positive_int, nargs="+", help="tokens of a step; one is always timed")
    parser.add_argument("--library", help="an instruction set that the compiled step is made for, not the fastest")
    parser.add_argument("--int8-kv-cache", action="store_true", help="keys and values of the compiled step in 8 bits")
    parser.add_argument("--pytorch", action="store_true", help="PyTorch's operators, also on a CPU")
    parser.add_argument("--kernels", action="store_true", help="on a GPU: which kernels take how long")
    parser.add_argument("--rounds", type=positive_int, default=9)
    args = parser.parse_args()
    with torch.inference_mode():
        bench = make(SHAPES[args.shape], args)
        reading, bandwidth = bench.reading()
        plain = bench.step(1)
        name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} thread(s)"
        measured = f"weights read at {bandwidth / 1e9:.0f} GB/s in {reading * 1e3:.1f} ms"
        kept = f", {args.cached} tokens in {'8 bits' if args.int8_kv_cache else '16'}"
        table = Table(title=f"{args.shape} {args.precision}{kept} on {name}: {measured}")
        for heading in ("tokens", "", "step ms", "over reading", "over plain"):
            table.add_column(heading, justify="right")
        labels = {config.tokens_per_step: str(config) for config in CONFIGS}
        for count in rows_of(args):
            step = plain if count == 1 else bench.step(count)
            label = labels.get(count, "plain" if count == 1 else "")
            ratios = (f"{step / reading:.2f}x", f"{step / plain:.2f}x")
            table.add_row(str(count), label, f"{step * 1e3:.1f}", *ratios)
        Console(width=100).print(table)
        if args.kernels and args.device == "cuda":
            for count in (1, 112):
                Console(width=100).print(bench.kernels(count))


if __name__ == "__main__":
    main()
