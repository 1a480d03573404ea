"""A checkpoint is found whole and described, or refused with what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

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
        ({"architectures": "Qwen2ForCausalLM, perhaps"}, "Qwen2ForCausalLM only"),
        ({"model_type": "qwen3"}, "model_type 'qwen3'"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised \(gptq\).*GGUF"),
        ({"quantization_config": True}, "quantised"),
        ({"rope_scaling": "yarn"}, "'yarn' as rope_scaling"),
        ({"rope_scaling": {"factor": 4.0}}, "RoPE scaling by factor"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}},
            "'yarn'.* of rope_parameters",
        ),
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear"}}, "RoPE scaling 'linear'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "RoPE scaling by full_attention"),
        ({"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}}, "by partial_rotary_factor"),
        ({"rope_theta": -1}, "-1 as rope_theta"),
        ({"rope_theta": "1e6"}, "'1e6' as rope_theta"),
        ({"rms_norm_eps": float("nan")}, "nan as rms_norm_eps"),
        ({"rms_norm_eps": 10**400}, "10{30,} as rms_norm_eps"),
        ({"rms_norm_eps": None}, "lacks 'rms_norm_eps'"),
        ({"num_attention_heads": 0}, "0 as num_attention_heads"),
        ({"num_attention_heads": -4, "num_key_value_heads": -2}, "-4 as num_attention_heads"),
        ({"num_attention_heads": "many"}, "'many' as num_attention_heads"),
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        ({"hidden_size": [64]}, "as hidden_size"),
        ({"num_hidden_layers": 2.5}, "2.5 as num_hidden_layers"),
        ({"num_hidden_layers": True}, "True as num_hidden_layers"),
        ({"num_hidden_layers": 10**12}, "1000000000000 layers"),
        ({"max_position_embeddings": 0}, "0 as max_position_embeddings"),
        ({"head_dim": 7}, "7 dimensions"),
        ({"tie_word_embeddings": "false"}, "'false' as tie_word_embeddings"),
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


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path)


def test_a_tensor_that_the_model_would_not_use_is_named(make_checkpoint: MakeCheckpoint) -> None:
    """Of a model with fewer layers than its file, and of an architecture with more parts, another would be served."""
    directory = make_checkpoint()
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match=r"12 tensors that a Qwen2 of 1 layers .* model\.layers\.1\."):
        Checkpoint.open(directory)
    (directory / "config.json").write_text(json.dumps(config))
    norm = "model.layers.0.self_attn.q_norm.weight"
    rewrite(directory, lambda weights: weights | {norm: torch.ones(16)})
    with pytest.raises(CheckpointError, match=norm):
        Checkpoint.open(directory)


def test_tensors_that_change_nothing_may_be_there(make_checkpoint: MakeCheckpoint) -> None:
    """A tied head a second time, and the rotary tables that transformers once saved."""
    directory = make_checkpoint(tie_word_embeddings=True)
    tables = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in range(2)}
    rewrite(directory, lambda w: w | tables | {"lm_head.weight": w["model.embed_tokens.weight"].clone()})
    assert "lm_head.weight" not in Checkpoint.open(directory).weight_files


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.int32])
def test_numbers_that_mean_nothing_without_a_scale_are_refused(
    make_checkpoint: MakeCheckpoint, dtype: torch.dtype
) -> None:
    """Their scales would be left out, and the checkpoint, which judges its engine, would be read in the same way."""
    directory = make_checkpoint()
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite(directory, lambda weights: weights | {name: weights[name].to(dtype)})
    with pytest.raises(CheckpointError, match=rf"{name} is in \w+; weights are read in BF16"):
        Checkpoint.open(directory)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_kind_of_plain_numbers_is_taken(make_checkpoint: MakeCheckpoint, dtype: torch.dtype) -> None:
    directory = make_checkpoint()
    rewrite(directory, lambda weights: {name: each.to(dtype) for name, each in weights.items()})
    Checkpoint.open(directory)


def test_an_index_that_names_the_wrong_shard_is_not_believed(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint(shards=2)
    index = directory / "model.safetensors.index.json"
    shards = json.loads(index.read_text())["weight_map"]
    other = dict(zip(sorted({*shards.values()}), sorted({*shards.values()}, reverse=True), strict=True))
    index.write_text(json.dumps({"weight_map": {name: other[file] for name, file in shards.items()}}))
    assert Checkpoint.open(directory).weight_files == shards


@pytest.mark.parametrize("weight_map", [[], {}, {"a": 5}, {"a": "../model.safetensors"}, {"a": "/etc/passwd"}, None])
def test_an_index_of_something_else_is_refused(make_checkpoint: MakeCheckpoint, weight_map: object) -> None:
    directory = make_checkpoint(shards=2)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="no weight_map"):
        Checkpoint.open(directory)


def test_a_tensor_in_two_shards_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint(shards=2)
    first, second = (directory / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    save_file(load_file(first) | load_file(second), second)
    with pytest.raises(CheckpointError, match=r"is in model-00001-of-.* and in model-00002"):
        Checkpoint.open(directory)


def test_an_adapter_is_to_be_merged(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint()
    (directory / "model.safetensors").rename(directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="LoRA adapter: merge it"):
            Checkpoint.open(directory)
        (directory / "config.json").unlink(missing_ok=True)


@pytest.mark.parametrize("text", ["{", "[" * 5000, '{"a": ' * 5000], ids=["cut", "lists", "objects"])
def test_broken_json_is_refused(make_checkpoint: MakeCheckpoint, text: str) -> None:
    directory = make_checkpoint()
    (directory / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        Checkpoint.open(directory)


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a directory"):
        Checkpoint.open(tmp_path / "nothing")
