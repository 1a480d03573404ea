"""The KV cache: one contiguous slot a sequence, sized when the engine loads."""

import torch

from build_engine.checkpoint import ModelShape


class KVCache:
    """Keys and values of all layers, `[layers, slots, kv_heads, capacity, head_dim]` in the model's dtype.

    Memory is claimed by the slots' first use (the operating system maps pages when they are touched), and never
    beyond `bytes`.
    """

    def __init__(self, shape: ModelShape, slots: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        size = (shape.num_hidden_layers, slots, shape.num_key_value_heads, capacity, shape.head_dim)
        self.keys = torch.empty(size, dtype=dtype, device=device)
        self.values = torch.empty(size, dtype=dtype, device=device)
        self.capacity = capacity
        self._free = list(range(slots))

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def acquire(self) -> int:
        """A free slot; there must be one."""
        return self._free.pop()

    def release(self, slot: int) -> None:
        self._free.append(slot)

    def write(self, layer: int, slot: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Stores `[tokens, kv_heads, head_dim]` behind the first `start` entries of a slot."""
        end = start + keys.shape[0]
        self.keys[layer, slot, :, start:end] = keys.transpose(0, 1)
        self.values[layer, slot, :, start:end] = values.transpose(0, 1)

    def read(self, layer: int, slot: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the first `length` entries of a slot, each `[kv_heads, length, head_dim]`."""
        return self.keys[layer, slot, :, :length], self.values[layer, slot, :, :length]

    def keep(self, slot: int, start: int, nodes: list[int]) -> None:
        """After a step whose tree was written at `start`: moves the entries of `nodes` right behind the root's.

        An entry was computed at its true position with exactly its true ancestors visible, so it is valid as it is.
        """
        if nodes != list(range(1, len(nodes) + 1)):
            source = [start + node for node in nodes]
            target = slice(start + 1, start + 1 + len(nodes))
            for tensor in (self.keys, self.values):
                tensor[:, slot, :, target] = tensor[:, slot, :, source]
