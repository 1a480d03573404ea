"""The Qwen2 model in PyTorch: one forward pass over the tokens of many sequences at once.

Linear layers see the tokens of all sequences side by side; attention runs per sequence, each with its own mask. This is
what runs on a GPU, and where the build stage had no compiler for `native.py`'s step; and it is the one to read first.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

from build_engine.checkpoint import ModelShape
from nimble_coder.engine.batch import Batch, Segment
from nimble_coder.engine.linear import Linear
from nimble_coder.engine.model import Outcome, seconds_of
from nimble_coder.engine.rotary import rotary_angles
from nimble_coder.engine.torch_kv_cache import TorchKVCache
from nimble_coder.engine.torch_logits import TorchLogits

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""`[rows, heads * head_dim]` from a layer's index and its rows' queries `[rows, heads, head_dim]` and keys and values
`[rows, kv_heads, head_dim]`, which go into the cache."""


class Layer:
    """One decoder layer's weights."""

    def __init__(self, weights: dict[str, torch.Tensor], prefix: str, rounds: bool) -> None:
        self.attention_norm = weights[prefix + "attention_norm"]
        self.qkv = Linear(weights.pop(prefix + "qkv_weight"), weights.pop(prefix + "qkv_bias"), rounds)
        self.output = Linear(weights.pop(prefix + "output"), rounds=rounds)
        self.mlp_norm = weights[prefix + "mlp_norm"]
        self.gate_up = Linear(weights.pop(prefix + "gate_up"), rounds=rounds)
        self.down = Linear(weights.pop(prefix + "down"), rounds=rounds)


class Qwen2:
    """Qwen2ForCausalLM from the portable engine's fused weights (`build_engine.engines.torch`), which it takes over.

    Implements `nimble_coder.engine.model.Model`.
    """

    def __init__(
        self, shape: ModelShape, weights: dict[str, torch.Tensor], cache: TorchKVCache, rounds: bool = False
    ) -> None:
        """`weights` are in rows; `rounds`: they are those of quantised matrices (`Linear`)."""
        self.shape = shape
        self.cache = cache
        self.device = cache.keys.device
        self._embedding = weights["embedding"]
        self._head = Linear(weights.pop("head", self._embedding), rounds=rounds)
        self._norm = weights["norm"]
        # Each matrix leaves `weights` as its packed copy comes: loading needs room for one of them twice, not for all.
        self._layers = [Layer(weights, f"layers.{index}.", rounds) for index in range(shape.num_hidden_layers)]
        self._cos, self._sin = rotary_tables(shape, cache.capacity, self._embedding.dtype, self._embedding.device)

    def seconds(self, batch: Batch) -> float:
        """See `Model.seconds`."""
        return seconds_of(lambda: self.run(batch))

    @torch.inference_mode()
    def run(self, batch: Batch) -> Outcome:
        """See `Model.run`."""
        logits = self.logits(batch)
        return Outcome(logits.argmax(-1).tolist(), TorchLogits(logits) if batch.wants_logits else None)

    def logits(self, batch: Batch) -> torch.Tensor:
        """`[wanted, vocab_size]`; stores the keys and values of all rows in the cache."""
        tokens, positions, wanted = (
            torch.from_numpy(each).to(self.device) for each in (batch.tokens, batch.positions, batch.wanted)
        )
        segments = [(segment, self._mask(batch, segment)) for segment in batch]
        attend = partial(self._attend, segments)
        return self.forward(tokens, positions, None if len(wanted) == len(tokens) else wanted, attend)

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor | None, attend: Attend
    ) -> torch.Tensor:
        """Logits of the wanted rows, or of all; `tokens`, `positions` and `wanted` are int64 on the model's device."""
        shape = self.shape
        eps, size = shape.rms_norm_eps, (shape.hidden_size,)
        q_heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        hidden = self._embedding[tokens]
        cos, sin = self._cos[positions], self._sin[positions]
        for index, layer in enumerate(self._layers):
            normed = functional.rms_norm(hidden, size, layer.attention_norm, eps)
            heads = layer.qkv(normed).view(-1, q_heads + 2 * kv_heads, shape.head_dim)
            rotated = rotate(heads[:, : q_heads + kv_heads], cos, sin)
            attended = attend(index, rotated[:, :q_heads], rotated[:, q_heads:], heads[:, q_heads + kv_heads :])
            hidden = hidden + layer.output(attended)
            normed = functional.rms_norm(hidden, size, layer.mlp_norm, eps)
            gate, up = layer.gate_up(normed).chunk(2, dim=-1)
            hidden = hidden + layer.down(functional.silu(gate) * up)
        if wanted is not None:
            hidden = hidden[wanted]
        return self._head(functional.rms_norm(hidden, size, self._norm, eps))

    def _mask(self, batch: Batch, segment: Segment) -> torch.Tensor | None:
        """`[rows, cached + rows]`, 0 where visible and -inf elsewhere; None: sees all."""
        if segment.rows == 1:
            return None
        mask = torch.zeros(segment.rows, segment.cached + segment.rows, dtype=self._embedding.dtype)
        mask[:, segment.cached :].masked_fill_(torch.from_numpy(~batch.seen(segment)), float("-inf"))
        return mask.to(self.device, non_blocking=True)

    def _attend(
        self,
        segments: list[tuple[Segment, torch.Tensor | None]],
        layer: int,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """Grouped-query attention of each segment over its slot."""
        kv_heads, dim = keys.shape[1:]
        # Query heads of one group share a KV head: the KV head is the batch dimension, its group the head dimension.
        grouped = queries.view(len(queries), kv_heads, -1, dim).permute(1, 2, 0, 3)
        group = (-1, grouped.shape[1], -1, -1)
        outputs = []
        for segment, mask in segments:
            rows = slice(segment.first_row, segment.first_row + segment.rows)
            self.cache.write(layer, segment.slot, segment.cached, keys[rows], values[rows])
            k, v = self.cache.read(layer, segment.slot, segment.cached + segment.rows)
            out = functional.scaled_dot_product_attention(
                grouped[:, :, rows], k[:, None].expand(group), v[:, None].expand(group), attn_mask=mask
            )
            outputs.append(out.permute(2, 0, 1, 3).flatten(1))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def rotary_tables(
    shape: ModelShape, positions: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines `[positions, 1, head_dim]` of rotary position embedding, halves layout (GPT-NeoX)."""
    angles = torch.from_numpy(rotary_angles(shape, positions))
    cos, sin = angles.cos(), angles.sin()
    tables = (torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))
    return tuple(table[:, None].to(device=device, dtype=dtype) for table in tables)  # type: ignore[return-value]


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of `[tokens, heads, head_dim]`; the sines carry the sign of the rotated half."""
    return heads * cos + heads.roll(heads.shape[-1] // 2, -1) * sin
