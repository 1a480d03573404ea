"""Which engine is served."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.checkpoint import CheckpointError
from build_engine.manifest import ManifestError
from build_engine.profiles import PROFILES, ProfileError
from build_engine.versions import IncompatibleError
from nimble_coder.settings.loading import load
from nimble_coder.supervisor.build import build_command
from nimble_coder.supervisor.choice import Choice, NoEngineError, choose
from tests.build_engine.gguf_files import write_gguf
from tests.conftest import MakeCheckpoint
from tests.standin.machine import B200, H100, T4, Machine

SEVEN = "qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"


def chosen(**environment: object) -> Choice:
    return choose(load({}, {name: str(value) for name, value in environment.items()}).settings)


def test_a_path_comes_before_all_else(artifact: Artifact, machine: Machine) -> None:
    found = chosen(NIMBLE_ARTIFACT=artifact.directory, NIM_MODEL_PROFILE=SEVEN, NIM_CACHE_PATH=machine.cache)
    assert found.artifact == artifact


def test_a_directory_as_the_model_is_an_artefact(artifact: Artifact) -> None:
    assert chosen(NIM_MODEL_NAME=artifact.directory).artifact == artifact


def test_a_checkpoint_or_a_gguf_file_as_the_model_is_built_and_found_again(
    make_checkpoint: MakeCheckpoint, machine: Machine, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint()
    for source in (write_gguf(checkpoint, tmp_path / "mine.gguf"), checkpoint):
        asked = {"NIM_MODEL_PATH": source, "NIM_CACHE_PATH": machine.cache}
        first = chosen(**asked)
        assert first.artifact is None
        assert first.profile.name.startswith(source.stem)
        settings = load({}, {name: str(value) for name, value in asked.items()}).settings
        machine.set(**asked)  # the supervisor's environment is the build's
        done = machine.call(*build_command(settings, first.profile)[3:], "--skip-verify")
        assert done.returncode == 0, done.stderr
        assert chosen(**asked).artifact == Artifact.open(Path(done.stdout.strip()))
    for absent in ("absent.gguf", "absent"):
        with pytest.raises(CheckpointError, match=f"/{absent} does not exist"):
            chosen(NIM_MODEL_PATH=tmp_path / absent, NIM_CACHE_PATH=machine.cache)


def test_a_checkpoint_that_is_named_from_where_one_stands_is_refused_with_its_whole_path(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_checkpoint.parent)
    with pytest.raises(CheckpointError, match=rf"by its whole path, {tiny_checkpoint}$"):
        chosen(NIM_MODEL_NAME=tiny_checkpoint.name)


def test_a_model_is_meant_by_its_name_also_where_a_directory_is_called_so(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen2.5-coder-0.5b").mkdir()
    asked = {"NIM_MODEL_NAME": "qwen2.5-coder-0.5b", "NIM_CACHE_PATH": machine.cache}
    assert chosen(**asked).profile.name.startswith("qwen2.5-coder-0.5b-torch")
    with pytest.raises(CheckpointError, match="by its whole path"):
        chosen(**{**asked, "NIM_MODEL_NAME": "./qwen2.5-coder-0.5b"})


def test_the_images_own_engine_is_the_default_and_what_is_chosen_comes_before_it(
    artifact: Artifact, h100: Machine, tiny_checkpoint: Path
) -> None:
    baked = {"NIMBLE_BAKED_ARTIFACT": artifact.directory, "NIM_CACHE_PATH": h100.cache}
    assert chosen(**baked).artifact == artifact
    assert chosen(**baked, NIM_MODEL_PROFILE="demo").artifact == artifact
    assert chosen(**baked, NIM_MODEL_PROFILE=SEVEN) == Choice(PROFILES[SEVEN], None, "the profile asked for")
    made = build(PROFILES[SEVEN], tiny_checkpoint, Cache(h100.cache), lambda _: None)
    assert chosen(**baked, NIM_MODEL_PROFILE=SEVEN).artifact == made
    assert chosen(**baked, NIM_MODEL_NAME="hf://Qwen/Qwen2.5-Coder-7B-Instruct").artifact == made


def test_without_a_choice_the_best_profile_of_the_machine_is_taken(h100: Machine, tiny_checkpoint: Path) -> None:
    assert chosen(NIM_CACHE_PATH=h100.cache).profile.name == SEVEN
    h100.gpus()
    assert chosen(NIM_CACHE_PATH=h100.cache).profile.name == "demo"


def test_an_engine_that_is_to_run_on_a_gpu_is_refused_without_one(artifact: Artifact, machine: Machine) -> None:
    asked = {"NIMBLE_ARTIFACT": artifact.directory, "NIMBLE_ENGINE_DEVICE": "cuda"}
    for gpus in ([], [T4]):
        machine.gpus(*gpus)
        with pytest.raises(IncompatibleError, match=r"compute capability 8\.0 or more.*--gpus all.*DEVICE=cpu"):
            chosen(**asked)
    machine.gpus(T4, B200)
    assert chosen(**asked).artifact == artifact
    machine.gpus()
    assert chosen(**{**asked, "NIMBLE_ENGINE_DEVICE": "cpu"}).artifact == artifact


def test_a_driver_that_is_too_old_for_pytorchs_cuda_is_refused_before_anything_is_built(machine: Machine) -> None:
    machine.gpus(H100)
    machine.cuda("13.0.96")
    asked = {"NIM_CACHE_PATH": machine.cache, "NIMBLE_ENGINE_DEVICE": "cuda"}
    machine.set(STANDIN_DRIVER="575.57.08")
    with pytest.raises(IncompatibleError, match=r"driver 575\.57\.08 is too old for PyTorch's CUDA 13: install 580"):
        chosen(**asked)
    machine.set(STANDIN_DRIVER="580.65.06")
    assert chosen(**asked).profile.name == "qwen2.5-coder-7b-instruct-torch-cuda-bf16-w15n15g15"


def test_an_engine_that_is_to_run_on_the_cpu_is_chosen_for_it(machine: Machine) -> None:
    machine.gpus(H100)
    asked = {"NIM_CACHE_PATH": machine.cache, "NIMBLE_ENGINE_DEVICE": "cpu"}
    assert chosen(**asked).profile.name == "demo"
    found = chosen(**asked, NIM_MODEL_NAME="qwen2.5-coder-7b-instruct").profile
    assert found.name == "qwen2.5-coder-7b-instruct-torch-bf16-w1n4g1"
    machine.tensorrt_llm("0.19.0")
    assert chosen(**asked).profile.engine == "tensorrt"


def test_the_newest_whole_artefact_of_the_profile_is_found_without_a_network(
    h100: Machine, tiny_checkpoint: Path
) -> None:
    h100.set(HF_ENDPOINT="http://127.0.0.1:9")
    made = build(PROFILES[SEVEN], tiny_checkpoint, Cache(h100.cache), lambda _: None)
    newer = made.directory.with_name(f"{SEVEN}-0000000000000000")
    shutil.copytree(made.directory, newer)
    replace(made.manifest, built_at="2100-01-01T00:00:00+00:00").write(newer)
    variant = made.directory.with_name(f"{SEVEN}-custom-00000000-0000000000000000")
    shutil.copytree(made.directory, variant)
    replace(made.manifest, profile=replace(made.manifest.profile, max_batch_size=3), built_at="2200").write(variant)
    assert chosen(NIM_MODEL_PROFILE=SEVEN, NIM_CACHE_PATH=h100.cache).artifact == Artifact.open(newer)
    (newer / "manifest.json").write_text("{")
    assert chosen(NIM_MODEL_PROFILE=SEVEN, NIM_CACHE_PATH=h100.cache).artifact == made


def test_an_engine_of_another_tensorrt_llm_is_none(h100: Machine, tiny_checkpoint: Path) -> None:
    made = build(PROFILES[SEVEN], tiny_checkpoint, Cache(h100.cache), lambda _: None)
    replace(made.manifest, engine_version="0.18.2").write(made.directory)
    assert chosen(NIM_MODEL_PROFILE=SEVEN, NIM_CACHE_PATH=h100.cache).artifact is None


def test_a_damaged_artefact_is_built_again_where_that_is_allowed(h100: Machine, tiny_checkpoint: Path) -> None:
    made = build(PROFILES[SEVEN], tiny_checkpoint, Cache(h100.cache), lambda _: None)
    (made.directory / "manifest.json").write_text("{")
    asked = {"NIM_MODEL_PROFILE": SEVEN, "NIM_CACHE_PATH": h100.cache}
    assert chosen(**asked).artifact is None
    with pytest.raises(ManifestError, match="is damaged"):
        chosen(**asked, NIMBLE_BUILD_ON_START="0")


def test_what_is_not_there_is_an_error_where_nothing_may_be_built(h100: Machine) -> None:
    with pytest.raises(NoEngineError, match=r"there is no engine of .*w8n8g8 \(the best profile here\)"):
        chosen(NIM_CACHE_PATH=h100.cache, NIMBLE_BUILD_ON_START="false")


def test_a_number_of_gpus_that_no_profile_has_is_refused(h100: Machine) -> None:
    with pytest.raises(ProfileError, match=r"no profile of qwen2\.5-coder-7b-instruct has 4 GPUs"):
        chosen(NIM_CACHE_PATH=h100.cache, NIM_MODEL_NAME="qwen2.5-coder-7b-instruct", NIM_TENSOR_PARALLEL_SIZE=4)
