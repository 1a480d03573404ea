"""The Qwen2 model: one forward pass over the tokens of many sequences at once.

Linear layers see the tokens of all sequences side by side; attention runs per sequence, each with its own mask.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional

from build_engine.checkpoint import ModelShape
from nimble_coder.engine.kv_cache import KVCache
from nimble_coder.engine.linear import Linear


@dataclass(frozen=True)
class Segment:
    """One sequence's part of a step."""

    slot: int
    cached: int
    """Entries already in the slot, all visible to every token of the segment."""
    rows: slice
    """Where its tokens are among the step's."""
    mask: torch.Tensor | None
    """`[tokens, cached + tokens]`, 0 where visible and -inf elsewhere, in the model's dtype; None: sees everything."""


@dataclass(frozen=True)
class Batch:
    """The tokens of one step, all sequences concatenated."""

    tokens: torch.Tensor
    """int64 `[tokens]`"""
    positions: torch.Tensor
    """int64 `[tokens]`"""
    segments: list[Segment]
    wanted: torch.Tensor | None
    """int64 rows whose logits are wanted; None: all."""


class Layer:
    """One decoder layer's weights."""

    def __init__(self, weights: dict[str, torch.Tensor], prefix: str) -> None:
        self.attention_norm = weights[prefix + "attention_norm"]
        self.qkv = Linear(weights.pop(prefix + "qkv_weight"), weights.pop(prefix + "qkv_bias"))
        self.output = Linear(weights.pop(prefix + "output"))
        self.mlp_norm = weights[prefix + "mlp_norm"]
        self.gate_up = Linear(weights.pop(prefix + "gate_up"))
        self.down = Linear(weights.pop(prefix + "down"))


class Qwen2:
    """Qwen2ForCausalLM from the portable engine's fused weights (`build_engine.engines.torch`), which it takes over."""

    def __init__(self, shape: ModelShape, weights: dict[str, torch.Tensor], positions: int) -> None:
        self.shape = shape
        self.embedding = weights["embedding"]
        self.head = Linear(weights.pop("head", self.embedding))
        self.norm = weights["norm"]
        # Each matrix leaves `weights` as its packed copy comes: loading needs room for one of them twice, not for all.
        self.layers = [Layer(weights, f"layers.{index}.") for index in range(shape.num_hidden_layers)]
        self._cos, self._sin = rotary_tables(shape, positions, self.dtype, self.device)

    @classmethod
    def load(cls, path: Path, shape: ModelShape, positions: int, device: torch.device) -> "Qwen2":
        """Reads the weights file onto `device`; positions 0 to `positions` - 1 can be computed."""
        return cls(shape, load_file(path, device=str(device)), positions)

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def forward(self, batch: Batch, cache: KVCache) -> torch.Tensor:
        """Logits `[wanted, vocab_size]` of the wanted rows; stores the keys and values of all rows in the cache."""
        eps, size = self.shape.rms_norm_eps, (self.shape.hidden_size,)
        hidden = self.embedding[batch.tokens]
        cos, sin = self._cos[batch.positions], self._sin[batch.positions]
        for index, layer in enumerate(self.layers):
            normed = functional.rms_norm(hidden, size, layer.attention_norm, eps)
            qkv = layer.qkv(normed)
            attended = self._attention(index, qkv, cos, sin, batch.segments, cache)
            hidden = hidden + layer.output(attended)
            normed = functional.rms_norm(hidden, size, layer.mlp_norm, eps)
            gate, up = layer.gate_up(normed).chunk(2, dim=-1)
            hidden = hidden + layer.down(functional.silu(gate) * up)
        if batch.wanted is not None:
            hidden = hidden[batch.wanted]
        return self.head(functional.rms_norm(hidden, size, self.norm, eps))

    def _attention(
        self,
        index: int,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        segments: list[Segment],
        cache: KVCache,
    ) -> torch.Tensor:
        """`[tokens, heads * head_dim]`: grouped-query attention of each segment over its slot."""
        shape = self.shape
        q_heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        heads = qkv.view(-1, q_heads + 2 * kv_heads, shape.head_dim)
        rotated = rotate(heads[:, : q_heads + kv_heads], cos, sin)
        # Query heads of one group share a KV head: the KV head is the batch dimension, its group the head dimension.
        queries = rotated[:, :q_heads].view(-1, kv_heads, q_heads // kv_heads, shape.head_dim).permute(1, 2, 0, 3)
        keys, values = rotated[:, q_heads:], heads[:, q_heads + kv_heads :]
        outputs = []
        for segment in segments:
            rows = segment.rows
            cache.write(index, segment.slot, segment.cached, keys[rows], values[rows])
            k, v = cache.read(index, segment.slot, segment.cached + rows.stop - rows.start)
            group = (-1, queries.shape[1], -1, -1)
            out = functional.scaled_dot_product_attention(
                queries[:, :, rows], k[:, None].expand(group), v[:, None].expand(group), attn_mask=segment.mask
            )
            outputs.append(out.permute(2, 0, 1, 3).flatten(1))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def rotary_tables(
    shape: ModelShape, positions: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines `[positions, 1, head_dim]` of rotary position embedding, halves layout (GPT-NeoX)."""
    frequencies = shape.rope_theta ** -(torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
    cos, sin = angles.cos(), angles.sin()
    tables = (torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))
    return tuple(table[:, None].to(device=device, dtype=dtype) for table in tables)  # type: ignore[return-value]


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of `[tokens, heads, head_dim]`; the sines carry the sign of the rotated half."""
    return heads * cos + heads.roll(heads.shape[-1] // 2, -1) * sin
