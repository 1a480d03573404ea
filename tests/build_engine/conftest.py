"""Fixtures of the build stage's tests."""

import os
from pathlib import Path

import pytest
from standin_machine import H100, ROOT, STANDIN, Machine, write_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory; tests must not write to it."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine without a GPU and without TensorRT-LLM until the test says otherwise."""
    place = Machine(tmp_path, monkeypatch)
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    place.set(
        PATH=os.pathsep.join([str(STANDIN / "bin"), os.environ["PATH"]]),
        PYTHONPATH=os.pathsep.join([str(site), str(ROOT)]),
        NIMBLE_CACHE_PATH=place.cache,
        STANDIN_RECORD=tmp_path / "calls.jsonl",
        STANDIN_GPUS="[]",
        HF_HUB_DISABLE_XET="1",
    )
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HOME", "NIM_MODEL_PROFILE", "NIM_MODEL_NAME"):
        monkeypatch.delenv(name, raising=False)
    return place


@pytest.fixture
def h100(machine: Machine) -> Machine:
    """A machine with two H100 and the pinned TensorRT-LLM."""
    machine.gpus(H100, H100)
    machine.tensorrt_llm("0.19.0")
    return machine
