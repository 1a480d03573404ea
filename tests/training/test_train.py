"""What training writes is a checkpoint that the build stage takes, and the published one is such a checkpoint."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer

from build_engine.build import build
from build_engine.cache import Cache
from build_engine.profiles import find_profile
from tests.conftest import EMBEDDED, silent
from training.card import Run
from training.train import SEED, configuration, save

RUN = Run(
    files=1,
    held_out_files=1,
    characters=1,
    corpus_sha256="0",
    python="3",
    torch=torch.__version__,
    device="cpu",
    steps=1,
    tokens=1,
    minutes=0.0,
    training_loss=8.0,
    held_out_loss=8.0,
    parameters=1,
    seed=SEED,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the embedded model's shape, exported."""
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    output = tmp_path_factory.mktemp("trained")
    save(transformers.Qwen2ForCausalLM(configuration(tokenizer)), tokenizer, RUN, output)
    return output


def tensors(checkpoint: Path) -> dict[str, tuple[list[int], str]]:
    with safe_open(checkpoint / "model.safetensors", framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        return {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}


def test_the_tied_head_is_written_once(written: Path) -> None:
    names = tensors(written)
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    assert (written / "model.safetensors").stat().st_size < 13_000_000


def test_the_published_weights_are_what_training_writes(written: Path) -> None:
    assert tensors(EMBEDDED) == tensors(written)
    assert sorted(path.name for path in written.iterdir()) == sorted(
        path.name for path in EMBEDDED.iterdir() if path.name != "__pycache__"
    )
    for file in ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        assert json.loads((written / file).read_text()) == json.loads((EMBEDDED / file).read_text()), file


def test_the_build_stage_takes_what_training_writes(written: Path, tmp_path: Path) -> None:
    artifact = build(find_profile("demo"), written, Cache(tmp_path), silent)
    artifact.manifest.check_hashes(artifact.directory)
