"""What a checkpoint itself thinks of a text: the judge of every engine that is made from it.

Qwen2's forward pass in fp32 on the CPU, written for this alone: it shares nothing with an engine but the checkpoint's
tensors and `ModelShape`. One matrix at a time is in memory in fp32, so that any model can be asked anywhere.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import torch
from safetensors import safe_open
from torch.nn import functional

from build_engine.checkpoint import Checkpoint

VOCABULARY_PIECE = 1 << 14
"""Rows of the head that are multiplied at once."""


class Reference:
    """Implements `build_engine.verify.Reference` for one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._shape = checkpoint, checkpoint.shape

    @torch.inference_mode()
    def losses(self, generations: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
        """See `build_engine.verify.Reference.losses`."""
        texts = [prompt + output[:-1] for prompt, output in generations]
        counts = [len(output) for _, output in generations]
        [hidden] = deque(self._hidden_states(texts), maxlen=1)  # the last layer's
        rows = torch.cat([torch.arange(s.stop - n, s.stop) for s, n in zip(segments(texts), counts, strict=True)])
        hidden = self._norm("model.norm", hidden[rows])
        logits = self._logits(hidden)
        chosen = torch.tensor([token for _, output in generations for token in output])
        losses = logits.amax(-1) - logits.gather(-1, chosen[:, None])[:, 0]
        return [each.tolist() for each in losses.split(counts)]

    def _hidden_states(self, texts: Sequence[list[int]]) -> Iterator[torch.Tensor]:
        """Hidden states `[tokens of all texts, hidden_size]` behind each layer."""
        rotary = self._rotary(torch.cat([torch.arange(len(text)) for text in texts]))
        hidden = self._tensor("model.embed_tokens.weight", torch.tensor([token for text in texts for token in text]))
        for layer in range(self._shape.num_hidden_layers):
            hidden = self._layer(f"model.layers.{layer}.", hidden, rotary, segments(texts))
            yield hidden

    def _tensor(self, name: str, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """A tensor in fp32, or some of its rows; the others are not read."""
        file = self._checkpoint.directory / self._checkpoint.weight_files[name]
        with safe_open(file, framework="pt") as tensors:
            tensor: torch.Tensor = tensors.get_tensor(name)
            return tensor[rows].float()

    def _linear(self, name: str, rows: torch.Tensor, bias: bool = False) -> torch.Tensor:
        return functional.linear(rows, self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias") if bias else None)

    def _norm(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        weight = self._tensor(f"{name}.weight")
        return functional.rms_norm(rows, weight.shape, weight, self._shape.rms_norm_eps)

    def _rotary(self, positions: torch.Tensor) -> torch.Tensor:
        """Unit complex numbers `[tokens, 1, head_dim / 2]`, by which pairs of dimensions are turned."""
        exponents = torch.arange(0, self._shape.head_dim, 2, dtype=torch.float64) / self._shape.head_dim
        angles = torch.outer(positions.double(), self._shape.rope_theta**-exponents)
        return torch.polar(torch.ones_like(angles), angles)[:, None].to(torch.complex64)

    def _layer(self, name: str, hidden: torch.Tensor, rotary: torch.Tensor, parts: list[slice]) -> torch.Tensor:
        """Hidden states `[tokens, hidden_size]` behind one decoder layer; a text sees itself alone."""
        normed = self._norm(f"{name}input_layernorm", hidden)
        queries, keys, values = (
            self._linear(f"{name}self_attn.{part}_proj", normed, bias=True).view(len(hidden), -1, self._shape.head_dim)
            for part in "qkv"
        )
        queries, keys = turned(queries, rotary), turned(keys, rotary)
        attended = torch.cat([attention(queries[part], keys[part], values[part]) for part in parts])
        hidden = hidden + self._linear(f"{name}self_attn.o_proj", attended)
        normed = self._norm(f"{name}post_attention_layernorm", hidden)
        gate = functional.silu(self._linear(f"{name}mlp.gate_proj", normed))
        return hidden + self._linear(f"{name}mlp.down_proj", gate * self._linear(f"{name}mlp.up_proj", normed))

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[tokens, vocab_size]`."""
        head = "model.embed_tokens.weight" if self._shape.tie_word_embeddings else "lm_head.weight"
        starts = range(0, self._shape.vocab_size, VOCABULARY_PIECE)
        pieces = (self._tensor(head, slice(start, start + VOCABULARY_PIECE)) for start in starts)
        return torch.cat([functional.linear(hidden, piece) for piece in pieces], -1)


def segments(texts: Sequence[list[int]]) -> list[slice]:
    """Where each text's tokens are among those of all."""
    return [slice(*ends) for ends in pairwise(accumulate(map(len, texts), initial=0))]


def turned(heads: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of `[tokens, heads, head_dim]`: dimension i and i + head_dim / 2 are one complex number."""
    numbers = torch.complex(*heads.chunk(2, -1)) * rotary
    return torch.cat([numbers.real, numbers.imag], -1)


def attention(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Causal attention `[tokens, heads * head_dim]` of one text, whose query heads share fewer key and value heads."""
    q, k, v = (each.transpose(0, 1) for each in (queries, keys, values))
    group = len(q) // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).flatten(1)
