"""Lookahead's output is the greedy output of the same model: token for token in fp32, and in bf16 but for near ties."""

import random
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from build_engine.build import Artifact, build
from build_engine.cache import Cache
from build_engine.engine_config import EngineConfig
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.profiles import find_profile
from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.engine.generate import generate
from nimble_coder.engine.kv_cache import KVCache
from nimble_coder.engine.protocol import Request
from nimble_coder.engine.qwen2 import Batch, Qwen2, Segment
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import silent

CONFIGS = [(2, 2, 1), (4, 3, 4), (1, 5, 5), (5, 5, 5), (8, 8, 8), (15, 15, 15)]
COUNT = 128


def prompts(tokenizer: TextTokenizer) -> list[list[int]]:
    """60 prompts: the coding prompts, and passages of the standard library."""
    texts = list(coding_prompts().values())
    rng = random.Random(7)
    for name in ("argparse", "json/decoder", "asyncio/events", "unittest/case", "http/client", "logging/handlers"):
        source = (Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text(encoding="utf-8")
        texts += [source[start : start + 500] for start in (rng.randrange(len(source) - 500) for _ in range(6))]
    found = [tokenizer.encode(text) for text in texts]
    assert len(found) == 60
    return found


@pytest.mark.timeout(1200)
def test_fp32_output_is_greedy_token_for_token(wide_artifact: Artifact) -> None:
    tokenizer = TextTokenizer(wide_artifact.tokenizer)
    engine = TorchEngine(wide_artifact.engine, LookaheadConfig(15, 15, 15), TorchEngineOptions(threads=1))
    try:
        cases = prompts(tokenizer)
        plain = [g.token_ids for g in generate(engine, [Request(ids, COUNT, lookahead=PLAIN) for ids in cases])]
        assert all(len(ids) == COUNT for ids in plain)
        for config in CONFIGS:
            fast = generate(engine, [Request(ids, COUNT, lookahead=LookaheadConfig(*config)) for ids in cases])
            differing = [i for i, g in enumerate(fast) if g.token_ids != plain[i]]
            assert differing == [], f"{config} changed prompts {differing}"
            assert sum(len(g.chunks) for g in fast) < 60 * COUNT, f"{config} never accepted a draft"
    finally:
        engine.shutdown()


@pytest.mark.timeout(600)
def test_bf16_differs_only_at_near_ties(tmp_path: Path) -> None:
    profile = replace(find_profile("demo"), precision="bf16", max_batch_size=16)
    artifact = build(profile, None, Cache(tmp_path), silent)
    engine = TorchEngine(artifact.engine, profile.lookahead, TorchEngineOptions())
    try:
        cases = prompts(TextTokenizer(artifact.tokenizer))
        plain = [g.token_ids for g in generate(engine, [Request(ids, COUNT, lookahead=PLAIN) for ids in cases])]
        fast = [g.token_ids for g in generate(engine, [Request(ids, COUNT) for ids in cases])]
    finally:
        engine.shutdown()
    probe = Probe(artifact.engine)
    rounding = max(probe.rounding(ids + out[:32]) for ids, out in zip(cases[:12], plain[:12], strict=True))
    assert rounding > 0
    for prompt, one, other in zip(cases, plain, fast, strict=True):
        if one != other:
            same = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
            assert probe.gap(prompt + one[:same]) <= 2 * rounding


class Probe:
    """Looks at the logits of a bf16 engine's model."""

    def __init__(self, engine_dir: Path) -> None:
        shape = EngineConfig.read(engine_dir).shape
        self._model = Qwen2.load(engine_dir / "rank0.safetensors", shape, 1024, torch.device("cpu"))
        self._cache = KVCache(shape, 1, 1024, torch.bfloat16, torch.device("cpu"))

    @torch.inference_mode()
    def _logits(self, ids: list[int], cached: int) -> torch.Tensor:
        """Logits behind the last of `ids`, those before `cached` taken from the cache."""
        new = len(ids) - cached
        mask = torch.zeros(new, len(ids), dtype=torch.bfloat16)
        mask[:, cached:].masked_fill_(~torch.ones(new, new, dtype=torch.bool).tril(), float("-inf"))
        batch = Batch(
            torch.tensor(ids[cached:]),
            torch.arange(cached, len(ids)),
            [Segment(0, cached, slice(0, new), mask)],
            torch.tensor([new - 1]),
        )
        return self._model.forward(batch, self._cache)[0].float()

    def rounding(self, ids: list[int]) -> float:
        """The largest difference between a logit computed in one pass and the same one computed token by token."""
        for end in range(1, len(ids)):
            self._logits(ids[:end], end - 1)
        stepwise = self._logits(ids, len(ids) - 1)
        return float((stepwise - self._logits(ids, 0)).abs().max())

    def gap(self, ids: list[int]) -> float:
        """How far apart the two best logits behind `ids` are."""
        best, second = self._logits(ids, 0).topk(2).values.tolist()
        return float(best - second)
