"""The real checkpoint by every profile of its size: into the cache, converted, and published with its repository.

TensorRT-LLM and the GPUs are stand-ins, which check what they are asked for; the engines are not run.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.catalog import MODELS
from build_engine.checkpoint import Checkpoint, sha256
from build_engine.engine_config import EngineConfig
from build_engine.guide_tokens import GUIDE_TOKENS
from build_engine.profiles import PROFILES, Profile
from tests.standin.machine import GPUS, Machine

MADE = ("bf16", "int8")
"""Precisions of the portable engine that are made in seconds."""


def profiles_of(checkpoint: Checkpoint) -> Iterator[Profile]:
    """All that are compiled for the checkpoint's size, and the portable ones that are made in seconds."""
    alike = {model.repo for model in MODELS.values() if model.shape == checkpoint.shape and model.is_instruct}
    for profile in PROFILES.values():
        if profile.model in alike and (profile.engine == "tensorrt" or profile.precision in MADE):
            yield profile


def check_artifact(artifact: Artifact, profile: Profile, checkpoint: Checkpoint, source: dict[str, str]) -> None:
    """The manifest tells where it came from, and engine, tokenizer and repository are what the profile says."""
    manifest = artifact.manifest
    assert (manifest.profile, manifest.source) == (profile, source)
    manifest.check_hashes(artifact.directory)
    engine = EngineConfig.read(artifact.engine)
    tied = {"tie_word_embeddings": None}  # a compiled engine's head is another tensor, tied or not
    assert vars(engine.shape) | tied == vars(checkpoint.shape) | tied
    assert (engine.max_draft_len, engine.max_seq_len) == (profile.lookahead.max_draft_tokens, profile.max_seq_len)
    assert engine.quant_algo == ("FP8" if profile.precision == "fp8" else engine.quant_algo)
    files = {file.name: file.read_bytes() for file in artifact.tokenizer.iterdir()}
    if profile.engine == "tensorrt":
        told = json.loads(files.pop(GUIDE_TOKENS))["encoded_vocab"]
        spelled = json.loads(files["tokenizer.json"])["model"]["vocab"]
        assert all(told[number] == token for token, number in spelled.items())
    assert all(content == (checkpoint.directory / name).read_bytes() for name, content in files.items())
    config = (artifact.repository / "tensorrt_llm" / "config.pbtxt").read_text()
    for value in (profile.lookahead.window_size, profile.lookahead.ngram_size):
        assert f'string_value: "{value}"' in config
    assert str(artifact.engine) in config
    assert "${" not in config


def test_every_profile_of_the_size_is_published(checkpoint: Checkpoint, machine: Machine) -> None:
    machine.tensorrt_llm("0.19.0")
    machine.set(HF_HUB_OFFLINE="1")
    profiles = list(profiles_of(checkpoint))
    compiled = [profile for profile in profiles if profile.engine == "tensorrt"]
    assert {profile.gpu for profile in compiled} >= set(GPUS)
    assert {profile.precision for profile in compiled} == {"bf16", "fp8"}
    brought = machine.run("download-to-cache", "--from", checkpoint.directory, "-p", profiles[0].name, timeout=300)
    assert brought.returncode == 0, brought.stderr
    copy = Checkpoint.open(Path(brought.stdout.strip()))
    source = {file.name: sha256(file) for file in copy.files}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        for profile in profiles:
            machine.gpus(*[GPUS.get(profile.gpu, GPUS["h100"])] * profile.tensor_parallel)
            artifact = build(profile, None, Cache(machine.cache), print)
            check_artifact(artifact, profile, checkpoint, source)
            assert machine.artifacts == [artifact.directory]
            shutil.rmtree(artifact.directory)  # all of them would take 14 GB, and the disk's time from the tests behind
    asked = [call for call in machine.calls if call["command"] != "trtllm-build"]
    assert len(asked) == sum(1 if p.precision == "fp8" else p.tensor_parallel for p in compiled)
    assert machine.leftovers == []
