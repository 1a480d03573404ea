"""The verification tells an engine of the real model that loses a little of its numbers from one that does not."""

import pytest
import torch

from build_engine.artifact import Artifact
from build_engine.checkpoint import Checkpoint
from build_engine.lookahead import PLAIN
from build_engine.reference import Reference
from build_engine.verify import LIMITS, OPEN_PROMPTS, PORTABLE_COMPARED, PROMPTS, VerificationError, compare
from nimble_coder.contract.request import Request
from nimble_coder.engine import torch_engine
from nimble_coder.engine.generate import generate
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.engine.torch_kv_cache import TorchKVCache
from nimble_coder.text.tokenizer import TextTokenizer
from tests.real_model.conftest import WIDEST


def losses_of(artifact: Artifact, tokenizer: TextTokenizer, checkpoint: Checkpoint) -> list[float]:
    """Of what an engine on PyTorch's operators generates, as the verification asks it."""
    prompts = [tokenizer.encode(text) for text in PROMPTS + OPEN_PROMPTS]
    engine = TorchEngine(artifact.engine, WIDEST, TorchEngineOptions(device="cpu"))
    try:
        outputs = generate(engine, [Request(prompt, PORTABLE_COMPARED, lookahead=PLAIN) for prompt in prompts])
    finally:
        engine.shutdown()
    return compare(Reference(checkpoint), prompts, [each.token_ids for each in outputs], LIMITS["bf16"])


def test_an_engine_with_keys_in_fp8_is_refused_and_the_same_with_its_own_passes(
    artifact: Artifact, tokenizer: TextTokenizer, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_engine, "find_step", list)  # the compiled step has its own way to the cache
    losses = losses_of(artifact, tokenizer, checkpoint)
    assert sum(losses) / len(losses) < LIMITS["bf16"].loss / 2
    write = TorchKVCache.write

    def rounded(self: TorchKVCache, layer: int, slot: int, start: int, keys: torch.Tensor, *rest: torch.Tensor) -> None:
        write(self, layer, slot, start, keys.to(torch.float8_e4m3fn).to(keys.dtype), *rest)

    monkeypatch.setattr(TorchKVCache, "write", rounded)
    with pytest.raises(VerificationError, match="does not compute what its checkpoint does"):
        losses_of(artifact, tokenizer, checkpoint)
