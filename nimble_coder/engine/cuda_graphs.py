"""Decoding steps as CUDA graphs: padded to one of a few shapes, recorded at its first use, and replayed.

A step launches some 400 kernels; for small models their launches take longer than they do. A graph launches them at
once, but always with the same shapes and addresses, so a step's trees are copied into buffers of their own and attend
over their slots' first entries, as many as the shape says. Chunks of prompts run without a graph.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from nimble_coder.engine.batch import Batch
from nimble_coder.engine.model import Outcome
from nimble_coder.engine.qwen2 import Qwen2

ROWS = (1, 8, 16, 32, 64, 128, 256)
"""Rows a sequence that shapes are made for, below the engine's own limit."""
SMALLEST_ENTRIES = 256


@dataclass(frozen=True)
class Shape:
    """What a graph is recorded for."""

    sequences: int
    rows: int
    """Of each sequence."""
    entries: int
    """Of each slot, those of the step itself included."""


class GraphedQwen2:
    """Implements `nimble_coder.engine.model.Model` around the PyTorch model.

    On a CPU, which has no graphs, the padded steps run as they are: that is how tests compare them.
    """

    def __init__(self, model: Qwen2, tokens_per_step: int) -> None:
        self._model = model
        # A padded step also reads entries that nobody has written, and a NaN among them outlives its weight of 0.
        model.cache.keys.zero_()
        model.cache.values.zero_()
        self._rows = [*(rows for rows in ROWS if rows < tokens_per_step), tokens_per_step]
        self._steps: dict[Shape, PaddedStep] = {}

    @torch.inference_mode()
    def run(self, batch: Batch) -> Outcome:
        """See `Model.run`."""
        segments = list(batch)
        most = max(segment.rows for segment in segments)
        if most > self._rows[-1] or len(batch.wanted) < len(batch.tokens):
            return self._model.run(batch)
        rows = next(rows for rows in self._rows if rows >= most)
        entries = power_of_two(max(segment.cached for segment in segments) + rows, SMALLEST_ENTRIES)
        shape = Shape(power_of_two(len(segments)), rows, min(entries, self._model.cache.capacity))
        step = self._steps.get(shape)
        if step is None:
            step = self._steps[shape] = PaddedStep(self._model, shape)
        step.fill(batch)
        step.run()
        return step.outcome(batch)


class PaddedStep:
    """A step of one shape, with the buffers that its graph reads and writes.

    A padded row is one more copy of its sequence's root that sees only itself, written behind the others where nobody
    looks; a padded sequence is the first one again, which writes what is written already.
    """

    def __init__(self, model: Qwen2, shape: Shape) -> None:
        self._model = model
        self._shape = shape
        sizes = (shape.sequences, shape.rows)
        self._tokens, self._positions = (torch.zeros(sizes, dtype=torch.int64, device=model.device) for _ in range(2))
        self._slots, self._cached = (
            torch.zeros(shape.sequences, dtype=torch.int64, device=model.device) for _ in range(2)
        )
        self._seen = torch.zeros(*sizes, shape.rows, dtype=torch.bool, device=model.device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def fill(self, batch: Batch) -> None:
        """Copies a batch into the buffers, padded."""
        sequences, rows = self._shape.sequences, self._shape.rows
        tokens, positions = np.zeros((sequences, rows), np.int64), np.zeros((sequences, rows), np.int64)
        seen = np.zeros((sequences, rows, rows), np.bool_)
        seen[:] = np.eye(rows, dtype=np.bool_)
        segments = list(batch)
        for index, segment in enumerate(segments):
            own = slice(segment.first_row, segment.first_row + segment.rows)
            tokens[index], positions[index] = batch.tokens[segment.first_row], batch.positions[segment.first_row]
            tokens[index, : segment.rows] = batch.tokens[own]
            positions[index, : segment.rows] = batch.positions[own]
            seen[index, : segment.rows, : segment.rows] = batch.seen(segment)
        for padded in (tokens, positions, seen):
            padded[len(segments) :] = padded[0]
        padding = [segments[0]] * (sequences - len(segments))
        for buffer, values in (
            (self._tokens, tokens),
            (self._positions, positions),
            (self._seen, seen),
            (self._slots, np.array([s.slot for s in [*segments, *padding]])),
            (self._cached, np.array([s.cached for s in [*segments, *padding]])),
        ):
            buffer.copy_(torch.from_numpy(values))

    def run(self) -> None:
        """Replays the graph, or records it."""
        if self._model.device.type != "cuda":
            self._logits = self._forward()
            return
        if self._graph is None:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries choose and allocate at their first calls, outside of graphs
                for _ in range(2):
                    self._forward()
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._logits = self._forward()
                self._choices = self._logits.argmax(-1)
        self._graph.replay()

    def outcome(self, batch: Batch) -> Outcome:
        """What the batch's own rows say."""
        choices = self._choices if self._graph else self._logits.argmax(-1)
        found = choices.view(self._shape.sequences, -1).tolist()
        logits = self._logits.view(self._shape.sequences, self._shape.rows, -1)
        segments = list(batch)
        wanted = [logits[index, : segment.rows] for index, segment in enumerate(segments)]
        return Outcome(
            [token for index, segment in enumerate(segments) for token in found[index][: segment.rows]],
            torch.cat(wanted) if batch.wants_logits else None,
        )

    def _forward(self) -> torch.Tensor:
        """Logits `[sequences * rows, vocab_size]`."""
        rows, entries, shape = self._shape.rows, self._shape.entries, self._model.shape
        self._places = self._cached[:, None] + torch.arange(rows, device=self._model.device)
        behind = torch.arange(entries, device=self._model.device) - self._cached[:, None]
        own = self._seen.gather(2, behind.clamp(0, rows - 1)[:, None].expand(-1, rows, -1))
        visible = (behind < 0)[:, None] | ((behind >= 0) & (behind < rows))[:, None] & own
        self._mask = visible[:, None].repeat(1, 1, shape.num_attention_heads // shape.num_key_value_heads, 1)
        return self._model.forward(self._tokens.flatten(), self._positions.flatten(), None, self._attend)

    def _attend(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Query heads that share a KV head are rows of it, since fused kernels with masks want as many of both."""
        cache, sizes, entries = self._model.cache, (self._shape.sequences, self._shape.rows), self._shape.entries
        kv_heads, dim = keys.shape[1:]
        grouped = queries.view(*sizes, kv_heads, -1, dim).permute(0, 2, 3, 1, 4)

        def place_and_read(tensor: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            tensor[self._slots[:, None], :, self._places] = new.view(*sizes, kv_heads, dim)
            return tensor[:, :, :entries].index_select(0, self._slots)

        out = functional.scaled_dot_product_attention(
            grouped.flatten(2, 3),
            place_and_read(cache.keys[layer], keys),
            place_and_read(cache.values[layer], values),
            attn_mask=self._mask,
        )
        return out.view(grouped.shape).permute(0, 3, 1, 2, 4).reshape(len(queries), -1)


def power_of_two(count: int, least: int = 1) -> int:
    """The smallest power of two that is `count` or more, and `least` or more."""
    return max(1 << (count - 1).bit_length(), least)
