"""The tables of docs/cost-model.md that come from the model of GPUs, not from a measurement.

python3 -m nimble_coder.bench.gpu_model
"""

from collections.abc import Sequence

from build_engine.catalog import SHAPES
from build_engine.hardware import GPU_TYPES
from build_engine.lookahead import LookaheadConfig
from nimble_coder.engine.budget import StepCosts
from nimble_coder.planning.cost_model import Gain
from nimble_coder.planning.gpu import GAINS, GpuSteps, proposal

PUBLISHED = LookaheadConfig(8, 8, 8)
TOKENS = 5.8
"""Per step under it: the real 0.5B on HumanEval's problems as chats."""
POST = {"h100": 3.6, "h200": 3.4}
"""NVIDIA's speed-ups of Qwen2.5-Coder (docs/gpu-checklist.md names the post)."""
CASES = (("0.5b", 1), ("1.5b", 1), ("7b", 1), ("32b", 2))
"""Size, and GPUs that share a step."""
CPU = StepCosts({1: 1.0, 2: 0.96, 3: 0.98, 4: 1.04, 6: 1.14, 8: 1.52, 12: 1.84, 16: 2.48, 24: 3.44, 32: 4.64, 48: 6.69})
"""The real 0.5B's shape on one thread (docs/tuning.md)."""


def lines(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    head, *body = (f"| {' | '.join(row)} |" for row in [heading, *rows])
    return "\n".join([head, f"|{'---|' * len(heading)}", *body])


def published() -> str:
    """What (8,8,8) means on the two GPUs of NVIDIA's post."""
    rows = []
    for gpu, speed_up in POST.items():
        for size, parallel in CASES:
            steps = GpuSteps(GPU_TYPES[gpu], SHAPES[size], parallel)
            usual, most = (
                steps.seconds(count) / steps.seconds(1) for count in (GAINS[PUBLISHED].rows, PUBLISHED.tokens_per_step)
            )
            name = f"{size.upper()}{f' on {parallel}' if parallel > 1 else ''}"
            figures = (f"{steps.seconds(1) * 1e3:.1f}", f"{usual:.2f}x", f"{most:.2f}x")
            gained = (
                f"{TOKENS / usual:.1f}x to {TOKENS / most:.1f}x",
                f"{speed_up * usual:.1f} to {speed_up * most:.1f}",
            )
            rows.append([gpu.upper(), name, *figures, *gained])
    needs = "tokens per step that the post's 3.6x (H100) or 3.4x (H200) needs"
    counts = [f"{count:.0f} rows over it" for count in (GAINS[PUBLISHED].rows, PUBLISHED.tokens_per_step)]
    return lines(["GPU", "model", "plain step, ms", *counts, f"{TOKENS} tokens per step", needs], rows)


def by_rows() -> str:
    """Speed-ups over rows, of the configurations without a window."""
    seven = {name: GpuSteps(GPU_TYPES[name], SHAPES["7b"]) for name in ("h100", "h200", "a10g")}
    rows = []
    for config, gain in GAINS.items():
        if config.window_size == 1:
            found = [
                seven["h100"].speed_up(gain),
                seven["h200"].speed_up(gain),
                seven["h200"].speed_up(gain, 8),
                seven["a10g"].speed_up(gain),
                on_cpu(gain),
            ]
            name = "plain" if config.is_plain else str(config)
            rows.append([f"{gain.rows:g}", name, f"{gain.tokens:.2f}", *(f"{each:.2f}x" for each in found)])
    series = ("7B on H100", "7B on H200", "7B on H200 8 at once", "7B on A10G", "0.5B on a CPU's core")
    return lines(["rows", "(W,N,G)", "tokens per step", *(f"{name} speed-up" for name in series)], rows)


def on_cpu(gain: Gain) -> float:
    return gain.tokens * CPU.of(1) / CPU.of(gain.rows)


def proposals() -> str:
    """What the model would build a 7B engine with."""
    return lines(
        ["GPU", "FLOP per byte", "(W,N,G) by requests at once"],
        [[gpu.name, f"{gpu.ridge:.0f}", proposal(gpu, SHAPES["7b"])] for gpu in GPU_TYPES.values()],
    )


def main() -> None:
    print(published(), by_rows(), proposals(), sep="\n\n")


if __name__ == "__main__":
    main()
