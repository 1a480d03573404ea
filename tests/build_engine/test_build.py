"""A build publishes a whole artefact or nothing, whatever happens to it."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from build_engine import address
from build_engine.artifact import Artifact
from build_engine.build import BuildOptions, build
from build_engine.cache import Cache, CacheError
from build_engine.engine_config import EngineConfig
from build_engine.engines.quantize import write_calibration
from build_engine.inventory import size_of
from build_engine.lookahead import LookaheadConfig
from build_engine.manifest import Manifest, ManifestError
from build_engine.packing import format_of, unpack
from build_engine.precision import Precision
from build_engine.profiles import PROFILES, Profile, ProfileError, find_profile
from tests.conftest import MakeCheckpoint, silent
from tests.standin.machine import Machine

ROOT = Path(__file__).parents[2]
TINY_PROFILE = replace(find_profile("demo"), max_input_len=256, max_seq_len=400, max_batch_size=4)
SEVEN = PROFILES["qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"]


def test_the_artefact_holds_engine_tokenizer_repository_and_manifest(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    artifact = build(TINY_PROFILE, make_checkpoint(), Cache(tmp_path), silent)
    assert sorted(path.name for path in artifact.directory.iterdir()) == [
        "engine",
        "manifest.json",
        "model_repository",
        "tokenizer",
    ]
    assert sorted(path.name for path in artifact.repository.iterdir()) == [
        "ensemble",
        "postprocessing",
        "preprocessing",
        "tensorrt_llm",
        "tensorrt_llm_bls",
    ]
    assert artifact.manifest.profile.lookahead == LookaheadConfig(8, 8, 8)
    artifact.manifest.check_hashes(artifact.directory)


def test_the_engine_config_has_tensorrt_llms_shape(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    artifact = build(TINY_PROFILE, make_checkpoint(), Cache(tmp_path), silent)
    content = json.loads((artifact.engine / "config.json").read_text())
    assert content["build_config"]["speculative_decoding_mode"] == 8
    assert content["build_config"]["max_draft_len"] == 111
    assert content["build_config"]["max_seq_len"] == 400 + 111  # TensorRT-LLM's builder counts the drafts in
    assert EngineConfig.read(artifact.engine).max_seq_len == 400


def test_whoever_may_enter_the_artefact_may_read_its_files(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    artifact = build(TINY_PROFILE, make_checkpoint(), Cache(tmp_path), silent)
    readers = artifact.directory.stat().st_mode & 0o444
    files = [path for path in artifact.directory.rglob("*") if path.is_file()]
    assert {path.name: path.stat().st_mode & 0o444 for path in files} == {path.name: readers for path in files}


@pytest.mark.parametrize(
    ("precision", "head", "qkv", "down"),
    [(kind, kind, kind, kind) for kind in ("bf16", "fp32", "int8")] + [("int4", "int6", "int6", "int4")],
)
def test_weights_are_fused_and_packed(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, precision: Precision, head: str, qkv: str, down: str
) -> None:
    checkpoint = make_checkpoint()
    artifact = build(replace(TINY_PROFILE, precision=precision), checkpoint, Cache(tmp_path), silent)
    given = load_file(checkpoint / "model.safetensors")
    with safe_open(artifact.engine / "rank0.safetensors", framework="pt") as weights:
        stacked = weights.get_tensor("layers.0.qkv_weight")
        formats = [
            format_of(each) for each in (weights.get_tensor("head"), stacked, weights.get_tensor("layers.0.down"))
        ]
        assert formats == [head, qkv, down]
        expected = torch.cat([given[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qkv"]).float()
        found = unpack(stacked, 16 * 8, 64).float()
        assert (found - expected).norm() < {"int8": 0.01, "int6": 0.03}.get(qkv, 0.005) * expected.norm()
        assert weights.get_tensor("norm").dtype == torch.float32


def test_the_first_tensor_begins_at_a_cache_line(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    artifact = build(replace(TINY_PROFILE, precision="int4"), make_checkpoint(), Cache(tmp_path), silent)
    with (artifact.engine / "rank0.safetensors").open("rb") as file:
        assert (8 + int.from_bytes(file.read(8), "little")) % 64 == 0


def test_no_placeholder_is_left_in_the_repository(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    artifact = build(TINY_PROFILE, make_checkpoint(), Cache(tmp_path), silent)
    for config in artifact.repository.glob("*/config.pbtxt"):
        assert not any(mark in config.read_text() for mark in ("{{", "}}", "${", "{%"))


def test_the_same_build_is_found_and_another_profile_is_another_artefact(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint, cache = make_checkpoint(), Cache(tmp_path)
    said: list[str] = []
    first = build(TINY_PROFILE, checkpoint, cache, silent)
    again = build(TINY_PROFILE, checkpoint, cache, said.append)
    other = build(replace(TINY_PROFILE, lookahead=LookaheadConfig(4, 3, 4)), checkpoint, cache, silent)
    assert again == first
    assert any("already built" in text for text in said)
    assert other.directory != first.directory


def test_other_serving_parameters_or_templates_take_the_engine_that_is_there(
    h100: Machine, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, options = Cache(h100.cache), BuildOptions(companion=True)
    first = build(SEVEN, tiny_checkpoint, cache, silent, options=options)
    compiled = len(h100.calls)
    tuned = build(replace(SEVEN, max_queue_factor=2), tiny_checkpoint, cache, silent, options=options)
    monkeypatch.setattr(address, "template_files", list)
    rendered = build(SEVEN, tiny_checkpoint, cache, silent, options=options)
    assert len(h100.calls) == compiled
    assert len({artifact.directory for artifact in (first, tuned, rendered)}) == 3
    assert (
        f"max_queue_size: {2 * SEVEN.max_batch_size} "
        in (tuned.repository / "tensorrt_llm" / "config.pbtxt").read_text()
    )
    for artifact in (first, tuned, rendered):
        artifact.manifest.check_hashes(artifact.directory)
        assert str(artifact.engine) in (artifact.repository / "tensorrt_llm" / "config.pbtxt").read_text()
    assert size_of(first.engine, tuned.engine) == size_of(first.engine)
    shutil.rmtree(first.directory)
    tuned.manifest.check_hashes(tuned.directory)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"lookahead": LookaheadConfig(4, 3, 4)}, {}),
        ({"max_batch_size": 2}, {}),
        ({"precision": "fp16"}, {}),
        ({}, {"companion": True}),
    ],
    ids=["lookahead", "limits", "precision", "companion"],
)
def test_what_determines_the_engine_is_compiled_anew(
    h100: Machine, tiny_checkpoint: Path, changes: dict[str, Any], options: dict[str, Any]
) -> None:
    cache = Cache(h100.cache)
    build(SEVEN, tiny_checkpoint, cache, silent)
    compiled = len(h100.calls)
    build(replace(SEVEN, **changes), tiny_checkpoint, cache, silent, options=BuildOptions(**options))
    assert len(h100.calls) > compiled


def test_another_data_set_is_another_engine_in_8_bits(h100: Machine, tiny_checkpoint: Path) -> None:
    cache, profile = Cache(h100.cache), replace(SEVEN, precision="fp8")
    first = build(profile, tiny_checkpoint, cache, silent)
    other = BuildOptions(calibration=str(write_calibration(h100.home / "other")))
    assert (
        build(profile, tiny_checkpoint, cache, silent, options=other).manifest.engine_key != first.manifest.engine_key
    )


def test_a_damaged_engine_is_not_taken(h100: Machine, tiny_checkpoint: Path) -> None:
    cache = Cache(h100.cache)
    first = build(SEVEN, tiny_checkpoint, cache, silent)
    rank = first.engine / "rank0.engine"
    rank.write_bytes(rank.read_bytes()[:-1] + b"x")
    compiled = len(h100.calls)
    build(replace(SEVEN, max_queue_factor=2), tiny_checkpoint, cache, silent)
    assert len(h100.calls) > compiled


def test_a_damaged_artefact_is_not_opened_and_is_built_anew(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint, cache = make_checkpoint(), Cache(tmp_path)
    artifact = build(TINY_PROFILE, checkpoint, cache, silent)
    (artifact.engine / "rank0.safetensors").write_bytes(b"half")
    with pytest.raises(ManifestError, match=r"rank0\.safetensors has 4 bytes instead of"):
        Artifact.open(artifact.directory)
    build(TINY_PROFILE, checkpoint, cache, silent)
    Artifact.open(artifact.directory).manifest.check_hashes(artifact.directory)


def test_a_changed_byte_is_found_by_its_hash(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    artifact = build(TINY_PROFILE, make_checkpoint(), Cache(tmp_path), silent)
    weights = artifact.engine / "rank0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    artifact.manifest.check_sizes(artifact.directory)
    with pytest.raises(ManifestError, match="changed after it was built"):
        artifact.manifest.check_hashes(artifact.directory)


@pytest.mark.parametrize("stage", ["build_torch_engine", "render_repository", "record_files", "flush"])
def test_a_killed_build_leaves_nothing_that_could_be_served(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, stage: str
) -> None:
    checkpoint, root = make_checkpoint(), tmp_path / "cache"
    elsewhere = {"flush": "build_engine.cache", "build_torch_engine": "build_engine.engines.torch"}
    module = elsewhere.get(stage, "build_engine.build")
    script = f"""
import os, signal, sys
import {module} as module
real = module.{stage}
def die(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
module.{stage} = die
from pathlib import Path
from build_engine.build import build
from build_engine.cache import Cache
from tests.build_engine.test_build import TINY_PROFILE
build(TINY_PROFILE, Path({str(checkpoint)!r}), Cache(Path({str(root)!r})), print)
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    published = [path for path in (root / "artifacts").iterdir() if not path.name.startswith(".")]
    assert published == []
    with pytest.raises(ManifestError):
        Artifact.open(next((root / "artifacts").glob(".*.building")))
    build(TINY_PROFILE, checkpoint, Cache(root), silent)
    assert [path.name for path in (root / "artifacts").glob(".*.building")] == []


def test_two_builders_at_once_build_once(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint, cache = make_checkpoint(), Cache(tmp_path)
    said: list[str] = []
    threads = [threading.Thread(target=build, args=(TINY_PROFILE, checkpoint, cache, said.append)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("published" in text for text in said) == 1
    assert sum("already built" in text for text in said) == 1


def test_a_cache_that_cannot_be_written_is_refused_with_its_path(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CacheError, match="cannot be written"):
        build(TINY_PROFILE, make_checkpoint(), Cache(file / "cache"), silent)


def test_more_positions_than_the_model_has_are_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="exceeds the model's 512 positions"):
        build(replace(TINY_PROFILE, max_seq_len=1024), make_checkpoint(), Cache(tmp_path), silent)
    assert not (tmp_path / "artifacts").exists()


def test_a_prompt_limit_without_room_for_output_is_refused() -> None:
    with pytest.raises(ProfileError, match="no room for output"):
        replace(TINY_PROFILE, max_input_len=400)


def test_a_manifest_of_another_schema_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    artifact = build(TINY_PROFILE, make_checkpoint(), Cache(tmp_path), silent)
    path = artifact.directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(ManifestError, match="schema 99"):
        Manifest.read(artifact.directory)


def test_profiles_are_values() -> None:
    assert isinstance(TINY_PROFILE, Profile)
    assert find_profile("demo") == find_profile("demo")
    with pytest.raises(ProfileError, match="there is no profile 'nothing'"):
        find_profile("nothing")
