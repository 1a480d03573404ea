"""What several tests need: checkpoints that the tests make themselves, the embedded model's artefact, a real Triton."""

import gc
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import certifi
import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.checkpoint import ModelShape
from build_engine.lookahead import LookaheadConfig
from build_engine.profiles import find_profile
from nimble_coder.processes.triton import Addresses, TritonServer
from tests.standin.machine import h100, machine, tiny_checkpoint

__all__ = ["h100", "machine", "tiny_checkpoint"]
"""Fixtures from elsewhere, for every test."""

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
# Tests run side by side; PyTorch's own threads would spin against those of the other worker.
torch.set_num_threads(1)
# Without a GPU its kernels run in Triton's interpreter, which has to be chosen before anything imports Triton's
# language, as transformers does: what is imported without it stays compiled.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

EMBEDDED = Path(__file__).parents[1] / "build_engine" / "embedded_model"
LONGEST = {
    "bench/test_service.py",
    "build_engine/test_faults.py",
    "engine/cuda/test_compilation.py",
    "engine/cuda/test_model.py",
    "engine/test_kv_cache.py",
    "engine/test_lossless.py",
    "engine/test_native.py",
    "gateway/test_access.py",
    "gateway/test_unfinished.py",
    "integration/test_build_to_serving.py",
    "integration/test_every_profile.py",
    "integration/test_quickstart.py",
    "supervisor/test_end.py",
    "supervisor/test_start.py",
}
"""The files that take most of the time."""

TINY: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "eos_token_id": 4076,
    "torch_dtype": "float32",
}


def pytest_configure(config: pytest.Config) -> None:
    """One certificate for every client of httpx, which reads some 150 otherwise, in 30 ms, with TLS or without.

    No test leaves this machine, and a test of TLS names its own.
    """
    folder = Path(tempfile.mkdtemp(prefix="nimble-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    first = folder / "certificate.pem"
    first.write_text("".join(certifi.contents().partition("-----END CERTIFICATE-----")[:2]) + "\n")
    os.environ["SSL_CERT_FILE"] = str(first)
    gc.disable()  # until all is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that at the end no worker waits for another that has just begun one."""
    items.sort(key=lambda item: item.path.relative_to(Path(__file__).parent).as_posix() not in LONGEST)


def pytest_collection_finish() -> None:
    """The garbage collector need not look again and again at what was imported and collected, which stays."""
    gc.collect()
    gc.freeze()
    gc.enable()


MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """Writes a tiny checkpoint with random weights; keyword arguments change its config.json."""

    def make(name: str = "checkpoint", shards: int = 1, **changes: Any) -> Path:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        config = {**TINY, **changes}
        (directory / "config.json").write_text(json.dumps(config))
        for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            shutil.copyfile(EMBEDDED / file, directory / file)
        generator = torch.Generator().manual_seed(0)
        weights = {
            key: torch.randn(size, generator=generator) * (0.3 if len(size) == 2 else 0.1) + (len(size) == 1)
            for key, size in ModelShape.from_config(config).tensors()
        }
        if shards == 1:
            save_file(weights, directory / "model.safetensors")
            return directory
        index = {key: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, key in enumerate(weights)}
        for file in set(index.values()):
            save_file({key: value for key, value in weights.items() if index[key] == file}, directory / file)
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        return directory

    return make


def silent(_: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture
def mounted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of its own, in memory, mounted as the parameter says."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("mounting needs root")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The embedded model, built as the demo profile says."""
    return build(find_profile("demo"), None, Cache(tmp_path_factory.mktemp("cache")), silent)


@pytest.fixture(scope="session")
def narrow(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same engine with a manifest that says it was built for (1,4,1); nothing is compiled into a portable one."""
    directory = tmp_path_factory.mktemp("narrow") / "demo"
    shutil.copytree(artifact.directory, directory)
    profile = replace(artifact.manifest.profile, lookahead=LookaheadConfig(1, 4, 1))
    replace(artifact.manifest, profile=profile).write(directory)
    return Artifact.open(directory)


@pytest.fixture(scope="session")
def triton(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A real tritonserver that serves the embedded model on free ports."""
    with running_triton(artifact.repository, tmp_path_factory.mktemp("triton") / "triton.log") as server:
        yield server


@contextmanager
def running_triton(repository: Path, log: Path) -> Iterator[TritonServer]:
    """A tritonserver on free ports with all models loaded, killed at the end: unloading them takes it 4 s."""
    with TritonServer(repository, Addresses.free(), log) as server:
        try:
            server.wait_ready()
            yield server
        finally:
            server.stop(grace=0.0)
