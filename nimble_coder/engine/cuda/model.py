"""The Qwen2 model on an NVIDIA GPU: matrix products by cuBLAS, everything between them by our kernels.

Steps are padded to one of a few numbers of rows, recorded as a CUDA graph, and replayed: one launch and one small copy
each way per step. Long chunks of prompts run as they are.
"""

import logging
import math
import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from build_engine.checkpoint import ModelShape
from nimble_coder.engine.batch import Batch
from nimble_coder.engine.cuda import kernels
from nimble_coder.engine.cuda.matrix import Matrix, Rows
from nimble_coder.engine.cuda.plan import Layout, Plan
from nimble_coder.engine.model import Outcome, seconds_of
from nimble_coder.engine.rotary import rotary_angles
from nimble_coder.engine.torch_kv_cache import TorchKVCache
from nimble_coder.engine.torch_logits import TorchLogits

logger = logging.getLogger(__name__)

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Rows that steps are padded to; the engine's own number of tokens per step comes between them."""
FEW_ROWS = 16
"""Up to here attention takes small blocks."""
MIXED_ROWS = 512
"""Up to here steps with chunks of prompts are graphs too: launched one by one, their kernels wait for the host."""
SPLITS = 32
"""The most parts that a sequence's entries are attended in."""
CHOICE_TILE = 128
"""Tokens of the vocabulary whose logits one program computes."""


class CudaQwen2:
    """Implements `nimble_coder.engine.model.Model`. On a CPU, under Triton's interpreter, steps run without graphs."""

    def __init__(
        self,
        shape: ModelShape,
        weights: dict[str, torch.Tensor],
        cache: TorchKVCache,
        tokens_per_step: int,
        longest_path: int,
    ) -> None:
        self._shape = shape
        self._weights = weights
        self._cache = cache
        self._device = cache.keys.device
        self._tokens_per_step = tokens_per_step
        self._longest_path = longest_path
        self._sequences = cache.keys.shape[1]
        self._processors = (
            torch.cuda.get_device_properties(self._device).multi_processor_count if self._device.type == "cuda" else 8
        )
        angles = torch.from_numpy(rotary_angles(shape, cache.capacity))
        self._cos, self._sin = (f(angles).to(self._device, torch.float32) for f in (torch.cos, torch.sin))
        self._head = weights.get("head", weights["embedding"])
        self._matrices = [
            {
                "qkv": Matrix(weights, f"layers.{layer}.qkv_weight", f"layers.{layer}.qkv_bias"),
                **{name: Matrix(weights, f"layers.{layer}.{name}") for name in ("output", "gate_up", "down")},
            }
            for layer in range(shape.num_hidden_layers)
        ]
        self._buckets = sorted({*ROWS, tokens_per_step})
        self._steps: dict[int, RecordedStep] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None

    def record(self, most_rows: int) -> None:
        """Records the graphs of steps of up to `most_rows` rows, which otherwise happens at their first use."""
        started = time.monotonic()
        for rows in (rows for rows in self._buckets if rows <= max(most_rows, MIXED_ROWS)):
            self._step(rows)
        logger.info("recorded %d steps in %.1f s", len(self._steps), time.monotonic() - started)

    def seconds(self, batch: Batch) -> float:
        """See `Model.seconds`."""
        return seconds_of(lambda: self.run(batch))

    @torch.inference_mode()
    def run(self, batch: Batch) -> Outcome:
        """See `Model.run`."""
        rows = len(batch.tokens)
        if rows <= (self._buckets[-1] if len(batch.wanted) == rows else MIXED_ROWS):
            step = self._step(next(bucket for bucket in self._buckets if bucket >= rows))
            found, normed = step.run(batch)
            wanted = torch.from_numpy(batch.wanted)
            logits = self._logits(normed[wanted.to(self._device)]) if batch.wants_logits else None
            return Outcome(found[wanted].tolist(), logits)
        layout = self.layout(rows, batch)
        plan = np.empty(layout.size, np.int32)
        Plan(layout, plan).fill(batch, self._cache.take_moves())
        hidden = self.forward(torch.from_numpy(plan).to(self._device), layout)
        normed = hidden[torch.from_numpy(batch.wanted).to(self._device)]
        every = torch.ones(len(normed), dtype=torch.int32, device=self._device)
        choices = self.choose(normed, every).tolist() if len(normed) else []
        return Outcome(choices, self._logits(normed) if batch.wants_logits else None)

    def layout(self, rows: int, batch: Batch | None = None) -> Layout:
        """The plan's layout for steps of `rows` rows, or of one batch that may be larger than steps are."""
        lines = 16 if rows <= FEW_ROWS else 64
        group = self._shape.num_attention_heads // self._shape.num_key_value_heads
        trees = self._tokens_per_step
        if batch is not None:
            trees = max([trees, *(segment.rows for segment in batch if segment.visible >= 0)])
        return Layout(rows, self._sequences, trees, max(self._longest_path, 1), lines // group)

    def _step(self, rows: int) -> "RecordedStep":
        if rows not in self._steps:
            self._steps[rows] = RecordedStep(self, self.layout(rows), self._cache, self._device, self._pool)
        return self._steps[rows]

    def _logits(self, normed: torch.Tensor) -> TorchLogits:
        return TorchLogits(functional.linear(normed, self._head))

    def forward(self, plan: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The final norm of all rows, `[rows, hidden_size]`; moves, then stores, entries in the cache."""
        shape, rows, cache = self._shape, layout.rows, self._cache
        part = layout.views(plan)
        width, inter = shape.hidden_size, shape.intermediate_size
        heads, kv_heads, dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        eps = shape.rms_norm_eps
        norm_block, head_block = power_of_two(width), power_of_two(heads + 2 * kv_heads)
        keys, values = cache.keys, cache.values
        slot_stride = keys.stride(1)
        weights = self._weights
        kernels.move_entries[(len(keys), kv_heads, layout.sequences)](
            keys, values, part["movers"], part["moves"], keys.stride(0), slot_stride, cache.capacity, dim,
            num_warps=1,
        )  # fmt: skip
        dtype, device, eight = keys.dtype, keys.device, self._matrices[0]["gate_up"].is_eight
        hidden = torch.empty(rows, width, dtype=dtype, device=device)
        final = torch.empty_like(hidden)
        normed = Rows.empty(rows, width, dtype, device, eight)
        # Attention writes no padded row, and what nobody has written may be too large to square.
        attended = torch.zeros(rows, heads * dim, dtype=dtype, device=device)
        rounded = Rows.empty(rows, heads * dim, dtype, device, eight=True) if eight else Rows(attended, normed.scales)
        gated = Rows.empty(rows, inter, dtype, device, eight)
        splits = self._splits(layout)
        partial = torch.empty(splits * rows * heads * dim, dtype=torch.float32, device=keys.device)
        stats = torch.zeros(splits * rows * heads * 2, dtype=torch.float32, device=keys.device)
        kernels.embed_norm[(rows,)](
            part["tokens"], weights["embedding"], weights["layers.0.attention_norm"], hidden, normed.values,
            normed.scales, width, eps, eight, norm_block,
        )  # fmt: skip
        for layer in range(shape.num_hidden_layers):
            name, matrices = f"layers.{layer}.", self._matrices[layer]
            qkv = matrices["qkv"](normed, dtype)
            kernels.rotate_and_store[(rows,)](
                qkv, normed.scales, matrices["qkv"].scales, matrices["qkv"].bias, self._cos, self._sin,
                part["positions"], part["places"], part["slots"], keys[layer], values[layer], slot_stride,
                cache.capacity, eight, heads, kv_heads, dim // 2, head_block,
            )  # fmt: skip
            kernels.attend[(layout.blocks, kv_heads, splits)](
                qkv, keys[layer], values[layer], attended, partial, stats, part["blocks"], part["visible"],
                math.log2(math.e) / math.sqrt(dim), slot_stride, cache.capacity, rows, splits,
                heads, kv_heads, dim, 16 if rows <= FEW_ROWS else 64, splits > 1,
                num_warps=4, num_stages=2 if rows <= FEW_ROWS else 3,
            )  # fmt: skip
            if splits > 1:
                kernels.combine[(rows * heads,)](
                    partial, stats, attended, rows * heads, splits, dim, power_of_two(splits), num_warps=2
                )
            if eight:
                kernels.round_rows[(rows,)](
                    attended, rounded.values, rounded.scales, heads * dim, power_of_two(heads * dim)
                )
            delta = matrices["output"](rounded, dtype)
            kernels.add_norm[(rows,)](
                hidden, delta, rounded.scales, matrices["output"].scales, weights[name + "mlp_norm"], normed.values,
                normed.scales, width, eps, eight, eight, norm_block,
            )  # fmt: skip
            gate_up = matrices["gate_up"](normed, dtype)
            if eight:
                kernels.silu_times_in_eight[(rows,)](
                    gate_up, normed.scales, matrices["gate_up"].scales, gated.values, gated.scales, inter,
                    power_of_two(inter), num_warps=16,
                )  # fmt: skip
            else:
                kernels.silu_times[(rows, -(-inter // 1024))](gate_up, gated.values, inter, 1024)
            delta = matrices["down"](gated, dtype)
            last = layer + 1 == shape.num_hidden_layers
            following = weights["norm" if last else f"layers.{layer + 1}.attention_norm"]
            into = Rows(final, normed.scales) if last else normed
            kernels.add_norm[(rows,)](
                hidden, delta, gated.scales, matrices["down"].scales, following, into.values, into.scales, width, eps,
                eight, eight and not last, norm_block,
            )  # fmt: skip
        return final

    def choose(self, normed: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The most likely token behind each row, `[rows]` int32; logits are compared in fp32.

        Where `wanted`, `[rows]` int32, is 0 there may be anything.
        """
        rows, width = normed.shape
        vocab = self._shape.vocab_size
        tiles = -(-vocab // CHOICE_TILE)
        tops = torch.empty(rows, tiles, dtype=torch.float32, device=normed.device)
        places = torch.empty(rows, tiles, dtype=torch.int32, device=normed.device)
        choices = torch.empty(rows, dtype=torch.int32, device=normed.device)
        lines = min(max(power_of_two(rows), 16), 128)
        kernels.choose_in_tiles[(-(-rows // lines), tiles)](
            normed, self._head, wanted, tops, places, rows, width, vocab, tiles, lines, CHOICE_TILE, 64,
            num_warps=8 if lines == 128 else 4, num_stages=4,
        )  # fmt: skip
        kernels.choose[(rows,)](wanted, tops, places, choices, tiles, power_of_two(tiles))
        return choices

    def _splits(self, layout: Layout) -> int:
        """Parts of a sequence's entries, so that there is work for every processor.

        Tuned on an H200 (`docs/gpu-benchmarks.md`): more parts cost more in `combine` than they save in `attend`.
        """
        programs = -(-layout.rows // layout.rows_per_block) * self._shape.num_key_value_heads
        return max(1, min(SPLITS, power_of_two(self._processors // programs + 1) // 2))


class RecordedStep:
    """A step of one layout: its plan, where its choices come out, and the graph between them."""

    def __init__(self, model: CudaQwen2, layout: Layout, cache: TorchKVCache, device: torch.device, pool: Any) -> None:
        on_gpu = device.type == "cuda"
        self._layout = layout
        self._cache = cache
        self._model = model
        self._staged = torch.zeros(layout.size, dtype=torch.int32, pin_memory=on_gpu)
        self._plan = torch.zeros(layout.size, dtype=torch.int32, device=device)
        self._staged_plan = Plan(layout, self._staged.numpy())
        self._found = torch.zeros(layout.rows, dtype=torch.int32, pin_memory=on_gpu)
        self._graph = torch.cuda.CUDAGraph() if on_gpu else None
        self._normed: torch.Tensor | None = None
        if self._graph is not None:
            self._record(self._graph, pool)

    @torch.inference_mode()
    def _record(self, graph: torch.cuda.CUDAGraph, pool: Any) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose and kernels compile at their first calls, outside of graphs
            self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=pool):
            self._compute()

    def _compute(self) -> None:
        self._plan.copy_(self._staged, non_blocking=True)
        self._normed = self._model.forward(self._plan, self._layout)
        wanted = self._layout.views(self._plan)["wanted"]
        self._found.copy_(self._model.choose(self._normed, wanted), non_blocking=True)

    def run(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Choices `[rows]` on the host and final norms `[rows, hidden_size]`, those of padded rows included."""
        self._staged_plan.fill(batch, self._cache.take_moves())
        if self._graph is None:
            self._compute()
        else:
            self._graph.replay()
            torch.cuda.current_stream().synchronize()
        assert self._normed is not None, "recorded at its making"  # noqa: S101 - for the type checker
        return self._found, self._normed


def power_of_two(count: int) -> int:
    """The smallest power of two that is `count` or more."""
    return 1 << (count - 1).bit_length()
