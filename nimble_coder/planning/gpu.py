"""A model of what steps take on GPUs that nobody has measured here, and the (W,N,G) that it proposes to build for them.

Four constants are the portable engine's on an H200, fitted to 18 steps of three shapes, 1 to 420 rows, in
docs/gpu-benchmarks.md: the model is 3.6 % off in the root mean square, 6.8 % at most. Other GPUs differ by their
data sheets only. No TensorRT engine was measured (docs/cost-model.md).
"""

from dataclasses import dataclass
from itertools import groupby
from math import hypot

from build_engine.checkpoint import ModelShape
from build_engine.hardware import GpuType
from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.planning.cost_model import Gain

BANDWIDTH, COMPUTE = 0.85, 0.6
"""The shares of a data sheet's bandwidth and FLOP/s that a step reaches."""
PER_LAYER, PER_LAYER_AND_ROW = 34e-6, 4e-8
"""Seconds, whatever the GPU: launches and waiting, and what each row adds besides its products."""

GAINS = {
    PLAIN: Gain(1.0, 1.0),
    LookaheadConfig(1, 3, 2): Gain(2.04, 5.0),
    LookaheadConfig(1, 4, 4): Gain(2.79, 9.3),
    LookaheadConfig(1, 5, 5): Gain(3.19, 12.9),
    LookaheadConfig(1, 8, 8): Gain(4.54, 23.6),
    LookaheadConfig(1, 15, 15): Gain(6.25, 49.5),
    LookaheadConfig(4, 3, 4): Gain(2.37, 11.9),
    LookaheadConfig(5, 5, 5): Gain(3.30, 28.2),
    LookaheadConfig(8, 8, 8): Gain(4.89, 67.2),
    LookaheadConfig(15, 15, 15): Gain(6.63, 185.0),
}
"""What engines might be built with: tokens and rows per step on six answers of the real 0.5B to HumanEval's problems,
128 tokens each. The first three that draft are replayed, the others counted (docs/cost-model.md)."""
AT_ONCE = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class GpuSteps:
    """Steps of a model with bf16 weights on one GPU, or on several that share each step."""

    gpu: GpuType
    shape: ModelShape
    tensor_parallel: int = 1
    """What the GPUs tell each other is taken to cost nothing."""

    def seconds(self, rows: float) -> float:
        """Of one step of so many rows, all sequences together."""
        weights = read_weights(self.shape) / self.tensor_parallel
        reading = 2 * weights / (BANDWIDTH * self.gpu.bandwidth * 1e12)
        computing = 2 * weights * rows / (COMPUTE * self.gpu.tflops * 1e12)
        beside = self.shape.num_hidden_layers * (PER_LAYER + PER_LAYER_AND_ROW * rows)
        return hypot(reading, computing) + beside

    def speed_up(self, gain: Gain, load: int = 1) -> float:
        """Over plain decoding, so many sequences at once."""
        return gain.tokens * self.seconds(load) / self.seconds(load * gain.rows)

    def proposed(self, load: int = 1) -> LookaheadConfig:
        """The (W,N,G) that the model expects most of with so many sequences at once."""
        return max(GAINS, key=lambda config: self.speed_up(GAINS[config], load))


def proposal(gpu: GpuType, shape: ModelShape, tensor_parallel: int = 1) -> str:
    """Which (W,N,G) to build, by how many requests usually run at once: `(8,8,8) for 1 to 2, (4,3,4) from 4 on`."""
    steps = GpuSteps(gpu, shape, tensor_parallel)
    groups = [(config, list(loads)) for config, loads in groupby(AT_ONCE, steps.proposed)]
    told = []
    for config, loads in groups:
        name = "no lookahead" if config.is_plain else str(config)
        span = f"{loads[0]}" if len(loads) == 1 else f"{loads[0]} to {loads[-1]}"
        told.append(f"{name} from {loads[0]} on" if loads[-1] == AT_ONCE[-1] else f"{name} for {span}")
    return ", ".join(told)


def read_weights(shape: ModelShape) -> int:
    """Weights of the matrices that a step reads whole: all but an embedding that is not the head, too."""
    q, kv = (heads * shape.head_dim for heads in (shape.num_attention_heads, shape.num_key_value_heads))
    attention = 2 * shape.hidden_size * (q + kv)
    layer = attention + 3 * shape.hidden_size * shape.intermediate_size
    return shape.num_hidden_layers * layer + shape.vocab_size * shape.hidden_size
