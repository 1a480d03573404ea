"""Turns a step's work into tensors, runs the model on them, and brings its choices back."""

import numpy as np
import torch

from nimble_coder.engine.kv_cache import KVCache
from nimble_coder.engine.lookahead import TokenTree
from nimble_coder.engine.qwen2 import Batch, Qwen2, Segment
from nimble_coder.engine.scheduler import Decode, Work


class ModelRunner:
    """Owns the model and its KV cache's content."""

    def __init__(self, model: Qwen2, cache: KVCache) -> None:
        self._model = model
        self._cache = cache

    @torch.inference_mode()
    def run(self, work: list[Work]) -> list[list[int]]:
        """One forward pass. For each piece of work, the chosen token behind every node of its tree, or behind the
        prompt's last token, or nothing for a chunk that does not end its prompt."""
        tokens, positions, wanted, counts = list[int](), list[int](), list[int](), list[int]()
        segments = []
        for piece in work:
            start, cached = len(tokens), piece.sequence.cached
            if isinstance(piece, Decode):
                mask = self._tree_mask(piece.tree, cached)
                positions.extend(cached + depth for depth in piece.tree.depths)
                tokens.extend(piece.tree.tokens)
                rows = range(start, len(tokens))
            else:
                mask = self._causal_mask(len(piece.tokens), cached)
                positions.extend(range(cached, cached + len(piece.tokens)))
                tokens.extend(piece.tokens)
                rows = range(len(tokens) - 1, len(tokens)) if piece.is_last else range(0)
            wanted.extend(rows)
            counts.append(len(rows))
            assert piece.sequence.slot is not None, "scheduled without a slot"  # noqa: S101 - for the type checker
            segments.append(Segment(piece.sequence.slot, cached, slice(start, len(tokens)), mask))
        batch = Batch(
            torch.tensor(tokens, device=self._model.device),
            torch.tensor(positions, device=self._model.device),
            segments,
            None if len(wanted) == len(tokens) else torch.tensor(wanted, device=self._model.device, dtype=torch.int64),
        )
        logits = self._model.forward(batch, self._cache)
        chosen = logits.argmax(-1).tolist()
        outputs, start = [], 0
        for piece, count in zip(work, counts, strict=True):
            row = chosen[start : start + count]
            if count and piece.sequence.sampler:
                token, log_prob = piece.sequence.sampler.choose(logits[start])
                piece.sequence.log_probs.append(log_prob)
                row = [token]
            outputs.append(row)
            start += count
        return outputs

    def _tree_mask(self, tree: TokenTree, cached: int) -> torch.Tensor | None:
        """Additive `[nodes, cached + nodes]`: every node sees the cache, its ancestors and itself."""
        size = len(tree)
        if size == 1:
            return None
        width = (size + 7) // 8
        bits = b"".join(visible.to_bytes(width, "little") for visible in tree.visible)
        seen = np.unpackbits(np.frombuffer(bits, np.uint8).reshape(size, width), axis=1, count=size, bitorder="little")
        return self._additive(torch.from_numpy(seen).bool(), cached)

    def _causal_mask(self, size: int, cached: int) -> torch.Tensor | None:
        """Additive `[tokens, cached + tokens]`: every token sees the cache and what came before it."""
        if size == 1:
            return None
        return self._additive(torch.ones(size, size, dtype=torch.bool).tril(), cached)

    def _additive(self, seen: torch.Tensor, cached: int) -> torch.Tensor:
        size = len(seen)
        mask = torch.zeros(size, cached + size, dtype=self._model.dtype)
        mask[:, cached:].masked_fill_(~seen, float("-inf"))
        return mask.to(self._model.device, non_blocking=True)
