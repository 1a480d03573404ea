"""The model on PyTorch: in CUDA graphs on a GPU, or its operators on a CPU whose step is not compiled."""

import logging
from pathlib import Path

import torch

from build_engine.checkpoint import ModelShape
from nimble_coder.engine.kv_cache import KVCache
from nimble_coder.engine.memory import OTHERS, free_memory
from nimble_coder.engine.model import Model
from nimble_coder.engine.qwen2 import Qwen2
from nimble_coder.engine.torch_kv_cache import TorchKVCache
from nimble_coder.engine.weights import are_quantised, in_rows, load_weights

logger = logging.getLogger(__name__)

COMPUTES_BF16 = (8, 0)
"""The least compute capability that computes in bf16."""


def has_fitting_gpu() -> bool:
    """Whether the kernels run on this machine's GPU."""
    if not torch.cuda.is_available():
        return False
    capability = torch.cuda.get_device_capability()
    if capability < COMPUTES_BF16:
        logger.warning("the GPU has compute capability %d.%d, the kernels want 8.0: running on the CPU", *capability)
    return capability >= COMPUTES_BF16


class PyTorch:
    """Implements `nimble_coder.engine.model.Platform`."""

    def __init__(self, device: str, threads: int, most_rows: int, longest_path: int) -> None:
        """`most_rows`: of one sequence in a step; `longest_path`: through its drafts."""
        self._device = torch.device(device)
        self._threads = threads
        self._most_rows = most_rows
        self._longest_path = longest_path

    @property
    def on_gpu(self) -> bool:
        """See `Platform`."""
        return self._device.type == "cuda"

    def free_memory(self) -> int:
        """See `Platform`."""
        return torch.cuda.mem_get_info(self._device)[0] if self.on_gpu else free_memory() - OTHERS

    def make_cache(self, shape: ModelShape, slots: int, capacity: int, dtype: str, reuse: bool) -> TorchKVCache:
        """See `Platform`."""
        kind: torch.dtype = getattr(torch, dtype)
        return TorchKVCache(shape, slots, capacity, kind, self._device, reuse, defer_moves=self.on_gpu)

    def load(self, engine_dir: Path, shape: ModelShape, cache: KVCache) -> Model:
        """See `Platform`."""
        assert isinstance(cache, TorchKVCache), "made by another platform"  # noqa: S101 - for the type checker
        weights = load_weights(engine_dir, self._device)
        rounds = are_quantised(weights)
        weights = in_rows(weights, shape, cache.keys.dtype)
        if self.on_gpu:
            from nimble_coder.engine.cuda.model import CudaQwen2  # Triton's language comes with CUDA builds only

            model = CudaQwen2(shape, weights, cache, self._most_rows, self._longest_path)
            model.record(self._most_rows)
            return model
        torch.set_num_threads(self._threads)
        return Qwen2(shape, weights, cache, rounds)
