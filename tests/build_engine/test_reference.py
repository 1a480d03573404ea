"""The judge computes what transformers computes, and tells a wrong engine from a right one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.checkpoint import Checkpoint
from build_engine.profiles import find_profile
from build_engine.reference import Reference
from build_engine.verify import LIMITS, PROMPTS, VerificationError, compare
from nimble_coder.contract.request import Request
from nimble_coder.engine import torch_engine
from nimble_coder.engine.generate import generate
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.engine.torch_kv_cache import TorchKVCache
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED, MakeCheckpoint, silent


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True, "rope_theta": 1e6}], ids=["own head", "tied"])
def test_the_losses_are_those_of_transformers(
    make_checkpoint: MakeCheckpoint, changes: dict[str, object], shards: int
) -> None:
    model = transformers.Qwen2ForCausalLM.from_pretrained(make_checkpoint("whole", **changes), dtype=torch.float32)
    generations = [([7, 8, 9], [i * 131 % 4096 for i in range(20)]), ([5], [6]), (list(range(50)), [1, 2, 3])]
    found = Reference(Checkpoint.open(make_checkpoint("asked", shards, **changes))).losses(generations)
    for (prompt, output), losses in zip(generations, found, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
        expected = logits.amax(-1) - logits[torch.arange(len(output)), output]
        torch.testing.assert_close(torch.tensor(losses), expected, atol=1e-3, rtol=1e-3)


Break = Callable[[Artifact], None]


@pytest.fixture
def large_key_bias(tmp_path: Path) -> Path:
    """The embedded model with key biases as large as Qwen2.5's, in dimensions that hardly turn: its tokens stay."""
    directory = tmp_path / "biased"
    directory.mkdir()
    for file in Checkpoint.open(EMBEDDED).files:
        (directory / file.name).write_bytes(file.read_bytes())
    weights = load_file(directory / "model.safetensors")
    for name in weights:
        if name.endswith("k_proj.bias"):
            heads = weights[name].view(-1, Checkpoint.open(EMBEDDED).shape.head_dim)
            heads[:, heads.shape[1] // 2 - 1] += 200
    save_file(weights, directory / "model.safetensors")
    return directory


def generated(checkpoint: Path, scratch: Path, broken: Break) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts, and how a portable engine that something was done to continues them."""
    profile = replace(find_profile("demo"), max_batch_size=8, max_seq_len=1024, max_input_len=512)
    artifact = build(profile, checkpoint, Cache(scratch / "cache"), silent)
    broken(artifact)
    tokenizer = TextTokenizer(artifact.tokenizer)
    prompts = [tokenizer.encode(text) for text in PROMPTS]
    engine = TorchEngine(artifact.engine, profile.lookahead, TorchEngineOptions())
    try:
        return prompts, [each.token_ids for each in generate(engine, [Request(prompt, 64) for prompt in prompts])]
    finally:
        engine.shutdown()


def nothing(artifact: Artifact) -> None:
    pass


def another_rotary_base(artifact: Artifact) -> None:
    file = artifact.engine / "config.json"
    config = json.loads(file.read_text())
    config["pretrained_config"]["rotary_base"] /= 100  # as 10000 is of 1e6
    file.write_text(json.dumps(config))


def keys_in_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    write = TorchKVCache.write

    def rounded(self: TorchKVCache, layer: int, slot: int, start: int, keys: torch.Tensor, *rest: torch.Tensor) -> None:
        write(self, layer, slot, start, keys.to(torch.float8_e4m3fn).to(keys.dtype), *rest)

    monkeypatch.setattr(TorchKVCache, "write", rounded)
    monkeypatch.setattr(torch_engine, "find_step", list)  # the compiled step has its own way to the cache


def test_an_engine_that_computes_what_the_checkpoint_does_passes(large_key_bias: Path, tmp_path: Path) -> None:
    for checkpoint in (EMBEDDED, large_key_bias):
        prompts, outputs = generated(checkpoint, tmp_path / checkpoint.name, nothing)
        losses = compare(Reference(Checkpoint.open(checkpoint)), prompts, outputs, LIMITS["fp32"])
        assert losses.count(0) / len(losses) > 0.99


def test_an_engine_with_another_rotary_base_is_refused(tmp_path: Path) -> None:
    prompts, outputs = generated(EMBEDDED, tmp_path, another_rotary_base)
    with pytest.raises(VerificationError, match="does not compute what its checkpoint does"):
        compare(Reference(Checkpoint.open(EMBEDDED)), prompts, outputs, LIMITS["fp8"])


def test_an_engine_whose_keys_lost_their_small_parts_to_fp8_is_refused(
    large_key_bias: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys_in_fp8(monkeypatch)
    prompts, outputs = generated(large_key_bias, tmp_path, nothing)
    with pytest.raises(VerificationError, match="does not compute what its checkpoint does"):
        compare(Reference(Checkpoint.open(large_key_bias)), prompts, outputs, LIMITS["bf16"])
