"""A machine with GPUs and a TensorRT-LLM that are not there, and a tiny checkpoint."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from build_engine.catalog import SHAPES
from build_engine.checkpoint import ModelShape
from tests.standin.in_process import call

STANDIN = Path(__file__).parent
ROOT = Path(__file__).parents[2]

H100 = ["NVIDIA H100 80GB HBM3", "9.0", 81559, 81000]
H200 = ["NVIDIA H200", "9.0", 143771, 143000]
A100 = ["NVIDIA A100-SXM4-80GB", "8.0", 81920, 81300]
A100_40 = ["NVIDIA A100-SXM4-40GB", "8.0", 40960, 40400]
L40S = ["NVIDIA L40S", "8.9", 46068, 45500]
L4 = ["NVIDIA L4", "8.9", 23034, 22600]
A10G = ["NVIDIA A10G", "8.6", 23028, 22500]
B200 = ["NVIDIA B200", "10.0", 183359, 182000]
T4 = ["Tesla T4", "7.5", 15360, 15000]
GPUS = {"h100": H100, "h200": H200, "a100": A100, "a100-40gb": A100_40, "l40s": L40S, "l4": L4, "a10g": A10G}


def successor(token: int) -> int:
    """What follows a token in the tiny checkpoint, and in the stand-in for the C++ backend."""
    return (5 * token + 1) % 200


def write_tiny_checkpoint(directory: Path, vocab_size: int = 260) -> Path:
    """A Qwen2 checkpoint of 0.2M weights with a byte-level tokenizer, in Hugging Face layout.

    A token's embedding is the code of its successor, which the head finds again; the layers add a little noise to it.
    """
    directory.mkdir(parents=True)
    shape: ModelShape = replace(
        SHAPES["0.5b"],
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=False,
    )
    random = np.random.default_rng(0)
    weights = {name: random.normal(0, 0.02, size) for name, size in shape.tensors()}
    codes = random.normal(0, 1, (shape.vocab_size, shape.hidden_size))
    weights |= {name: np.ones(size) for name, size in shape.tensors() if name.endswith("norm.weight")}
    weights["lm_head.weight"] = codes
    weights["model.embed_tokens.weight"] = codes[[successor(token) for token in range(shape.vocab_size)]]
    save_file({name: each.astype(np.float32) for name, each in weights.items()}, directory / "model.safetensors")
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "eos_token_id": 256,
    }
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(special))
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [256]}))
    return directory


@dataclass
class Machine:
    """A machine whose GPUs, driver and TensorRT-LLM are stand-ins; its cache is empty."""

    home: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def artifacts(self) -> list[Path]:
        """Everything published; drafts are hidden."""
        return [path for path in self.cache.glob("artifacts/*") if not path.name.startswith(".")]

    @property
    def leftovers(self) -> list[Path]:
        return [path for path in self.cache.glob("artifacts/.*") if path.is_dir()]

    @property
    def calls(self) -> list[dict[str, object]]:
        """What the stand-ins were asked to do, in order."""
        record = self.home / "calls.jsonl"
        return [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []

    def set(self, **variables: object) -> None:
        """Sets environment variables, for this process and its children."""
        for name, value in variables.items():
            self.monkeypatch.setenv(name, str(value))

    def gpus(self, *gpus: list[object]) -> None:
        self.set(STANDIN_GPUS=json.dumps(gpus))

    def tensorrt_llm(self, version: str) -> None:
        """Installs the stand-in package under that version."""
        site = self.home / "site"
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(STANDIN / "packages", site, ignore=shutil.ignore_patterns("__pycache__"))
        info = site / f"tensorrt_llm-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: {version}\n")

    def cuda(self, version: str) -> None:
        """Lets PyTorch have brought along that CUDA."""
        info = self.home / "site" / f"nvidia_cuda_runtime-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nvidia-cuda-runtime\nVersion: {version}\n")

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "nimble_coder.cli", *map(str, arguments)]

    def call(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """The command `nimble-coder`, in this process."""
        return call(self.home, *map(str, arguments))

    def run(self, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """The same in a process of its own, where that is what matters."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=timeout, cwd=self.home, check=False
        )


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
