"""Keys and values that PyTorch holds, on a CPU or a GPU."""

import torch

from build_engine.checkpoint import ModelShape
from nimble_coder.engine.kv_cache import KVCache, cache_size


class TorchKVCache(KVCache):
    """A KV cache in tensors."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(
        self,
        shape: ModelShape,
        slots: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        reuse: bool = True,
        defer_moves: bool = False,
    ) -> None:
        size = cache_size(shape, slots, capacity)
        keys, values = (torch.empty(size, dtype=dtype, device=device) for _ in range(2))
        super().__init__(keys, values, reuse, defer_moves)

    def write(self, layer: int, slot: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Stores `[tokens, kv_heads, head_dim]` behind the first `start` entries of a slot."""
        end = start + keys.shape[0]
        self.keys[layer, slot, :, start:end] = keys.transpose(0, 1)
        self.values[layer, slot, :, start:end] = values.transpose(0, 1)

    def read(self, layer: int, slot: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the first `length` entries of a slot, each `[kv_heads, length, head_dim]`."""
        return self.keys[layer, slot, :, :length], self.values[layer, slot, :, :length]
