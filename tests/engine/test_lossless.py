"""Lookahead's output is the greedy output of the same model, token for token; on PyTorch in bf16 but for near ties."""

import random
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.engine_config import EngineConfig
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.precision import Precision
from build_engine.profiles import find_profile
from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.contract.request import Request
from nimble_coder.engine import torch_engine
from nimble_coder.engine.batch import BatchBuilder
from nimble_coder.engine.generate import generate
from nimble_coder.engine.qwen2 import Qwen2
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.engine.torch_kv_cache import TorchKVCache
from nimble_coder.engine.weights import in_rows, load_weights
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import silent

WIDEST = LookaheadConfig(15, 15, 15)
CONFIGS = [(2, 2, 1), (4, 3, 4), (1, 5, 5), (5, 5, 5), (8, 8, 8), (15, 15, 15)]
COUNT = 128


def prompts(artifact: Artifact) -> list[list[int]]:
    """60 prompts: the coding prompts, and passages of the standard library."""
    texts = list(coding_prompts().values())
    rng = random.Random(7)
    for name in ("argparse", "json/decoder", "asyncio/events", "unittest/case", "http/client", "logging/handlers"):
        source = (Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text(encoding="utf-8")
        texts += [source[start : start + 500] for start in (rng.randrange(len(source) - 500) for _ in range(6))]
    tokenizer = TextTokenizer(artifact.tokenizer)
    found = [tokenizer.encode(text) for text in texts]
    assert len(found) == 60
    return found


def embedded(directory: Path, precision: Precision, int8_kv_cache: bool = False) -> Artifact:
    profile = replace(find_profile("demo"), precision=precision, lookahead=WIDEST, int8_kv_cache=int8_kv_cache)
    return build(profile, None, Cache(directory), silent)


@pytest.fixture
def no_compiled_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where there was no compiler."""
    monkeypatch.setattr(torch_engine, "find_step", list)


@contextmanager
def running(artifact: Artifact) -> Iterator[TorchEngine]:
    engine = TorchEngine(artifact.engine, WIDEST, TorchEngineOptions())
    try:
        yield engine
    finally:
        engine.shutdown()


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("free_rows")
@pytest.mark.parametrize(
    ("precision", "int8_kv_cache"), [("fp32", False), ("bf16", False), ("int8", False), ("int4", False), ("int4", True)]
)
def test_the_compiled_steps_output_is_greedy_token_for_token(
    tmp_path: Path, precision: Precision, int8_kv_cache: bool
) -> None:
    """All in bf16, which is what is served; row by row `test_native.py` holds every format to it."""
    artifact = embedded(tmp_path, precision, int8_kv_cache)
    cases, configs = prompts(artifact), CONFIGS
    if precision != "bf16":
        cases, configs = cases[::3], configs[1::3]
    with running(artifact) as engine:
        plain = [g.token_ids for g in generate(engine, [Request(ids, COUNT, lookahead=PLAIN) for ids in cases])]
        assert all(len(ids) == COUNT for ids in plain)
        for turn, config in enumerate(configs):
            # Of the prompts: the next configuration has others. A step of the widest takes four times as long as one of
            # the next.
            mine = slice(turn % 3, None, 6 if config == CONFIGS[-1] else 3)
            fast = generate(engine, [Request(ids, COUNT, lookahead=LookaheadConfig(*config)) for ids in cases[mine]])
            differing = [i for i, (g, ids) in enumerate(zip(fast, plain[mine], strict=True)) if g.token_ids != ids]
            assert differing == [], f"{config} changed prompts {differing}"
            assert sum(len(g.chunks) for g in fast) < len(fast) * COUNT, f"{config} never accepted a draft"
        before = engine.statistics().drafting["lookahead"].accepted
        windowed = generate(engine, [Request(ids, COUNT, drafting="windowed") for ids in cases[::2]])
        assert [g.token_ids for g in windowed] == plain[::2]
        assert engine.statistics().drafting["lookahead"].accepted > before  # the window has a part in it


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("no_compiled_step", "free_rows")
def test_on_pytorch_fp32_output_is_greedy_token_for_token(tmp_path: Path) -> None:
    artifact = embedded(tmp_path, "fp32")
    cases, count = prompts(artifact)[::6], COUNT // 2
    with running(artifact) as engine:
        plain = [g.token_ids for g in generate(engine, [Request(ids, count, lookahead=PLAIN) for ids in cases])]
        ways = [{"lookahead": LookaheadConfig(*config)} for config in CONFIGS[:3]] + [{"drafting": "windowed"}]
        for way in ways:
            fast = generate(engine, [Request(ids, count, **way) for ids in cases])
            assert [g.token_ids for g in fast] == plain, way


@pytest.mark.timeout(600)
def test_on_pytorch_bf16_output_differs_only_at_near_ties(tmp_path: Path, no_compiled_step: None) -> None:
    artifact = embedded(tmp_path, "bf16")
    cases, count = prompts(artifact)[::6], COUNT // 2
    with running(artifact) as engine:
        plain = [g.token_ids for g in generate(engine, [Request(ids, count, lookahead=PLAIN) for ids in cases])]
        config = LookaheadConfig(5, 5, 5)
        fast = [g.token_ids for g in generate(engine, [Request(ids, count, lookahead=config) for ids in cases])]
    probe = Probe(artifact.engine)
    rounding = max(probe.rounding(ids + out[:32]) for ids, out in zip(cases[::3], plain[::3], strict=True))
    assert rounding > 0
    for prompt, one, other in zip(cases, plain, fast, strict=True):
        if one != other:
            same = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
            assert probe.gap(prompt + one[:same]) <= 2 * rounding


class Probe:
    """Looks at the logits of a bf16 engine's model on PyTorch's operators."""

    def __init__(self, engine_dir: Path) -> None:
        shape = EngineConfig.read(engine_dir).shape
        cache = TorchKVCache(shape, 1, 1024, torch.bfloat16, torch.device("cpu"))
        weights = in_rows(load_weights(engine_dir, torch.device("cpu")), shape, torch.bfloat16)
        self._model = Qwen2(shape, weights, cache)

    @torch.inference_mode()
    def _logits(self, ids: list[int], cached: int) -> torch.Tensor:
        """Logits behind the last of `ids`, those before `cached` taken from the cache."""
        builder = BatchBuilder()
        builder.add_chunk(0, cached, ids[cached:], is_last=True)
        return self._model.logits(builder.build(wants_logits=True))[0].float()

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
