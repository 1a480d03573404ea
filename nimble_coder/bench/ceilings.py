"""What this GPU can do at most: its memory's bandwidth, its matrix units' rate, and what launching costs.

scripts/bench ceilings [--device cuda]
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from nimble_coder.bench.arguments import add_device


def seconds(work: Callable[[], object], device: torch.device, rounds: int = 9) -> float:
    """Median seconds of `work`, with the device's queue drained before and after."""
    times = []
    for turn in range(rounds + 2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn >= 2:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def ceilings(device: torch.device) -> dict[str, str]:
    """Name to figure."""
    on_gpu = device.type == "cuda"
    block = torch.empty((2 << 30 if on_gpu else 64 << 20) // 4, device=device).normal_()
    target = torch.empty_like(block)
    copied = 2 * block.numel() * 4 / seconds(lambda: target.copy_(block), device)
    size = 8192 if on_gpu else 512
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    rate = 2 * size**3 / seconds(lambda: a @ b, device)
    small = torch.zeros(32, device=device)

    def launches() -> None:
        for _ in range(1000):
            small.add_(1)

    found = {
        "copy, bytes read and written": f"{copied / 1e12:.2f} TB/s",
        f"bf16 product of {size}x{size} matrices": f"{rate / 1e12:.1f} TFLOP/s",
        "one small PyTorch operator": f"{seconds(launches, device) * 1e3:.1f} us",
    }
    if on_gpu:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launches()
        found["one small kernel in a graph"] = f"{seconds(graph.replay, device) * 1e3:.2f} us"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device(parser)
    device = torch.device(parser.parse_args().device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU ({platform.machine()})"
    table = Table(title=f"{name}, PyTorch {torch.__version__}, Python {platform.python_version()}")
    table.add_column("ceiling")
    table.add_column("measured", justify="right")
    for what, figure in ceilings(device).items():
        table.add_row(what, figure)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
