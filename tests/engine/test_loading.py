"""How an engine is loaded: where it runs, with how much memory, and what does not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from build_engine.build import build
from build_engine.cache import Cache
from build_engine.engine_config import WEIGHTS, EngineConfig, EngineConfigError
from build_engine.lookahead import LookaheadConfig
from build_engine.profiles import find_profile
from nimble_coder.contract.request import Request, RequestError
from nimble_coder.contract.response import Response
from nimble_coder.engine import pytorch, torch_engine
from nimble_coder.engine.memory import OTHERS, slot_bytes
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions, choose_device
from tests.build_engine.test_build import TINY_PROFILE
from tests.conftest import MakeCheckpoint, silent
from tests.engine.conftest import LoadEngine
from tests.engine.test_torch_engine import PROMPT


def test_where_memory_holds_fewer_sequences_the_others_wait(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = make_checkpoint()
    artifact = build(TINY_PROFILE, directory, Cache(directory.parent / "other"), silent)
    config = EngineConfig.read(artifact.engine)
    weights = (artifact.engine / WEIGHTS).stat().st_size
    two = 2 * slot_bytes(config.shape, config.max_seq_len + TINY_PROFILE.lookahead.tokens_per_step, config.dtype)
    monkeypatch.setattr(pytorch, "free_memory", lambda: OTHERS + weights + int(1.2 * two))
    engine = TorchEngine(artifact.engine, TINY_PROFILE.lookahead, TorchEngineOptions())
    assert engine.statistics().max_requests == 2 < TINY_PROFILE.max_batch_size
    assert "room for 2 at once" in caplog.text
    ids = [engine.enqueue(Request(PROMPT, 5)) for _ in range(3)]
    found = [r.request_id for r in collect_all(engine, ids) if r.is_final]
    engine.shutdown()
    assert sorted(found) == ids
    half = TorchEngine(artifact.engine, TINY_PROFILE.lookahead, TorchEngineOptions(kv_cache_fraction=0.5))
    assert half.statistics().max_requests == 1
    half.shutdown()


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_step_has_no_more_threads_than_there_are_processors(
    make_checkpoint: MakeCheckpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_compiled: bool,
) -> None:
    directory = make_checkpoint()
    artifact = build(TINY_PROFILE, directory, Cache(directory.parent / "other"), silent)
    if not is_compiled:
        monkeypatch.setattr(torch_engine, "find_step", list)
    engine = TorchEngine(artifact.engine, TINY_PROFILE.lookahead, TorchEngineOptions(threads=100_000))
    assert "the step cannot have 100000 threads: this process may run on" in caplog.text
    assert collect_all(engine, [engine.enqueue(Request(PROMPT, 2))])[-1].is_final
    engine.shutdown()


@pytest.mark.parametrize(("device", "where"), [("cpu", "this CPU, whose step is not compiled"), ("cuda", "a GPU")])
def test_an_int8_kv_cache_is_refused_where_nothing_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, where: str
) -> None:
    profile = replace(find_profile("demo"), int8_kv_cache=True)
    artifact = build(profile, None, Cache(tmp_path), silent)
    monkeypatch.setattr(torch_engine, "find_step", list)
    with pytest.raises(EngineConfigError, match=f"int8 KV cache does not run on {where}"):
        TorchEngine(artifact.engine, profile.lookahead, TorchEngineOptions(device=device))


def test_an_int8_kv_cache_is_refused_for_heads_that_the_step_does_not_take(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint()  # its heads have 16 dimensions
    artifact = build(replace(TINY_PROFILE, int8_kv_cache=True), directory, Cache(directory.parent / "int8"), silent)
    with pytest.raises(EngineConfigError, match="keys of 16 dimensions have no int8 KV cache"):
        TorchEngine(artifact.engine, TINY_PROFILE.lookahead, TorchEngineOptions())


def test_a_lower_limit_of_the_length_holds_in_the_engine_too(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint()
    artifact = build(TINY_PROFILE, directory, Cache(directory.parent / "other"), silent)
    engine = TorchEngine(artifact.engine, TINY_PROFILE.lookahead, TorchEngineOptions(max_seq_len=64))
    with pytest.raises(RequestError, match=r"Prompt length \(64\) exceeds maximum input length \(63\)"):
        engine.enqueue(Request([300] * 64, 5))
    request_id = engine.enqueue(Request([300] * 63, 5))
    tokens = [token for r in collect_all(engine, [request_id]) for token in r.token_ids]
    engine.shutdown()
    assert len(tokens) == 1


def collect_all(engine: TorchEngine, ids: list[int]) -> list[Response]:
    """All responses until every request has had its last."""
    found: list[Response] = []
    while sum(r.is_final for r in found) < len(ids):
        found += engine.responses(timeout=1)
    return found


def test_engine_and_configuration_must_agree(load_engine: LoadEngine, make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint()
    artifact = build(TINY_PROFILE, directory, Cache(directory.parent / "other"), silent)
    with pytest.raises(EngineConfigError, match="was built for 111: they must be equal"):
        TorchEngine(artifact.engine, LookaheadConfig(4, 3, 4), TorchEngineOptions())
    with pytest.raises(EngineConfigError, match="run build-engine"):
        TorchEngine(artifact.directory / "nothing", LookaheadConfig(8, 8, 8), TorchEngineOptions())


@pytest.mark.parametrize(
    ("asked", "capability", "device"),
    [
        ("auto", None, "cpu"),
        ("auto", (7, 5), "cpu"),
        ("auto", (8, 0), "cuda"),
        ("auto", (12, 0), "cuda"),
        ("cpu", (9, 0), "cpu"),
    ],
)
def test_a_gpu_is_taken_where_the_kernels_run_on_it(
    monkeypatch: pytest.MonkeyPatch, asked: str, capability: tuple[int, int] | None, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch_engine, "has_driver", lambda: True)
    assert choose_device(asked) == device
