"""Engines that the tests of this folder share."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.lookahead import LookaheadConfig
from build_engine.profiles import find_profile
from nimble_coder.engine.budget import StepCosts
from nimble_coder.engine.form import Forms
from nimble_coder.engine.scheduler import Work
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.text.added_tokens import added_tokens
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED, MakeCheckpoint, silent
from tests.engine.forms import VOCAB

LoadEngine = Callable[..., TorchEngine]
OWN = LookaheadConfig(5, 5, 5)
SMALL = replace(find_profile("demo"), max_batch_size=4, max_input_len=256, max_seq_len=400, max_num_tokens=256)


def hold(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Has the engine's steps wait; returns what is set when one has begun, and what lets them go on."""
    begun, end = threading.Event(), threading.Event()
    run = engine._runner.run

    def long(work: list[Work]) -> list[list[int] | Exception]:
        begun.set()
        end.wait()
        return run(work)

    monkeypatch.setattr(engine._runner, "run", long)
    return begun, end


@pytest.fixture
def load_engine(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Iterator[LoadEngine]:
    """Builds and loads an engine of the tiny random checkpoint; keyword arguments change its profile or options."""
    engines: list[TorchEngine] = []

    def load(
        model: Path | None = None,
        max_queue_size: int = 128,
        reuse_kv_cache: bool = True,
        tokenizer: bool = True,
        drafts: Path | None = None,
        **changes: Any,
    ) -> TorchEngine:
        profile = replace(SMALL, **changes)
        artifact = build(profile, model or make_checkpoint(), Cache(tmp_path / "cache"), silent)
        options = TorchEngineOptions(
            max_queue_size=max_queue_size,
            tokenizer=artifact.tokenizer if tokenizer else None,
            reuse_kv_cache=reuse_kv_cache,
            drafts=drafts,
        )
        engines.append(TorchEngine(artifact.engine, profile.lookahead, options))
        return engines[-1]

    yield load
    for engine in engines:
        engine.shutdown()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchEngine]:
    """The embedded model in bf16 under `OWN`, for all tests of a file: no output depends on an earlier request."""
    profile = replace(SMALL, lookahead=OWN, precision="bf16")
    artifact = build(profile, None, Cache(tmp_path_factory.mktemp("embedded")), silent)
    engine = TorchEngine(artifact.engine, profile.lookahead, TorchEngineOptions(tokenizer=artifact.tokenizer))
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(EMBEDDED)


@pytest.fixture(scope="module")
def forms() -> Forms:
    return Forms(EMBEDDED, VOCAB, added_tokens(EMBEDDED))


@pytest.fixture(scope="session")
def wide_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The embedded model in fp32 with room for (15,15,15)."""
    profile = replace(find_profile("demo"), lookahead=LookaheadConfig(15, 15, 15))
    return build(profile, None, Cache(tmp_path_factory.mktemp("wide")), silent)


class FreeRows(StepCosts):
    """Every draft is worth its row, whatever the engine sees."""

    @classmethod
    def measured(cls, *_: object) -> "FreeRows":
        return cls({1: 1.0, 16: 1.0})

    def observe(self, rows: int, seconds: float) -> None: ...


@pytest.fixture
def free_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines of a test draft all that they can, however busy the machine is."""
    monkeypatch.setattr(StepCosts, "measure", FreeRows.measured)
