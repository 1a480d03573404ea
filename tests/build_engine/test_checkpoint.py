"""A checkpoint is found whole and described, or refused with what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from build_engine.checkpoint import Checkpoint, CheckpointError
from tests.conftest import EMBEDDED, MakeCheckpoint


def test_the_embedded_model_is_a_valid_checkpoint_of_at_most_24_megabytes() -> None:
    checkpoint = Checkpoint.open(EMBEDDED)
    assert checkpoint.shape.tie_word_embeddings
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) <= 24_000_000


def test_shards_are_read_through_their_index(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(shards=3))
    assert len({*checkpoint.weight_files.values()}) == 3
    assert [path.name for path in checkpoint.files if path.suffix == ".safetensors"] == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "Qwen2ForCausalLM only"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "RoPE scaling 'yarn'"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"num_key_value_heads": 3}, "not a multiple"),
    ],
)
def test_models_that_cannot_be_run_are_refused(
    make_checkpoint: MakeCheckpoint, changes: dict[str, Any], reason: str
) -> None:
    directory = make_checkpoint()
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=reason):
        Checkpoint.open(directory)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_missing_file_is_named(make_checkpoint: MakeCheckpoint, name: str) -> None:
    directory = make_checkpoint()
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Checkpoint.open(directory)


def test_a_missing_shard_is_named(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint(shards=2)
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        Checkpoint.open(directory)


def test_truncated_weights_are_refused(make_checkpoint: MakeCheckpoint) -> None:
    weights = make_checkpoint() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="download it again"):
        Checkpoint.open(weights.parent)


def test_a_tensor_of_the_wrong_shape_is_named(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint()
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    with pytest.raises(CheckpointError, match=r"mlp\.\w+_proj\.weight has shape"):
        Checkpoint.open(directory)


def test_a_missing_tensor_is_named(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint()
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"the first is model\.layers\.2"):
        Checkpoint.open(directory)


def test_broken_json_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint()
    (directory / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        Checkpoint.open(directory)


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a directory"):
        Checkpoint.open(tmp_path / "nothing")
