"""The plan for TensorRT-LLM: what is asked of it is what it accepts, and what it makes is what was planned."""

import json
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from build_engine.artifact import ENGINE, PLAIN_ENGINE, Artifact
from build_engine.build import BuildOptions, build, check_plan
from build_engine.cache import Cache
from build_engine.catalog import find_model
from build_engine.checkpoint import Checkpoint
from build_engine.dry_run import shell_script
from build_engine.engine_config import EngineConfig
from build_engine.engines.tensorrt import EngineBuildError, check_profile, outcome
from build_engine.lookahead import LookaheadConfig
from build_engine.profiles import PROFILES, Profile, ProfileError
from build_engine.versions import IncompatibleError
from tests.standin.machine import Machine

SEVEN = PROFILES["qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"]
THIRTY_TWO = PROFILES["qwen2.5-coder-32b-instruct-h100-bf16-tp2-w15n15g15"]
FP8 = PROFILES["qwen2.5-coder-32b-instruct-h100-fp8-tp2-w15n15g15"]


def make(profile: Profile, machine: Machine, checkpoint: Path, options: BuildOptions | None = None) -> Artifact:
    return build(profile, checkpoint, Cache(machine.cache), lambda _: None, options=options)


def test_each_rank_is_converted_by_a_call_of_its_own(h100: Machine, tiny_checkpoint: Path) -> None:
    make(THIRTY_TWO, h100, tiny_checkpoint)
    converted = [call for call in h100.calls if call["command"] == "from_hugging_face"]
    assert [(call["rank"], call["tp"], call["dtype"]) for call in converted] == [(0, 2, "bfloat16"), (1, 2, "bfloat16")]


def test_fp8_is_quantised_on_code_without_a_download(h100: Machine, tiny_checkpoint: Path) -> None:
    make(FP8, h100, tiny_checkpoint)
    (call,) = [call for call in h100.calls if call["command"] == "quantize_and_export"]
    assert (call["tp"], call["dtype"], call["texts"]) == (2, "bfloat16", 512)


def test_an_fp8_engine_has_an_fp8_kv_cache_only_where_it_was_asked_for_and_does_not_reuse_it(
    h100: Machine, tiny_checkpoint: Path
) -> None:
    usual = make(FP8, h100, tiny_checkpoint)
    asked = make(FP8.with_limits(fp8_kv_cache=True, kv_cache_reuse=False), h100, tiny_checkpoint)
    for artifact, algorithm, reuse in ((usual, None, "true"), (asked, "FP8", "false")):
        found = EngineConfig.read(artifact.engine)
        assert (found.quant_algo, found.kv_cache_quant_algo) == ("FP8", algorithm)
        config = (artifact.repository / "tensorrt_llm" / "config.pbtxt").read_text()
        assert f'"enable_kv_cache_reuse" value: {{ string_value: "{reuse}" }}' in config


def test_an_fp8_kv_cache_is_asked_for_on_the_command_line(h100: Machine) -> None:
    done = h100.call("build-engine", "-p", FP8.name, "--fp8-kv-cache", "--dry-run")
    assert (done.returncode, done.stdout.count("--fp8-kv-cache")) == (0, 1)
    refused = h100.call("build-engine", "-p", SEVEN.name, "--fp8-kv-cache", "--dry-run")
    assert refused.returncode == 2
    assert "beside bf16 weights" in refused.stderr


def test_an_int8_kv_cache_is_refused_on_the_command_line(h100: Machine) -> None:
    refused = h100.call("build-engine", "-p", SEVEN.name, "--int8-kv-cache", "--dry-run")
    assert refused.returncode == 2
    assert "an int8 KV cache is for the torch engine on CPUs" in refused.stderr


def test_the_compiler_gets_every_limit(h100: Machine, tiny_checkpoint: Path) -> None:
    make(THIRTY_TWO, h100, tiny_checkpoint, BuildOptions(workers=8))
    (call,) = [call for call in h100.calls if call["command"] == "trtllm-build"]
    assert call["speculative_decoding_mode"] == "lookahead_decoding"
    assert (call["max_draft_len"], call["max_batch_size"], call["max_beam_width"]) == (419, 8, 1)
    assert (call["max_input_len"], call["max_seq_len"], call["max_num_tokens"]) == (8192, 16384, 8192)
    assert (call["kv_cache_type"], call["use_paged_context_fmha"]) == (None, "enable")
    assert call["workers"] == 2  # not more than there are ranks


def test_a_companion_is_the_same_engine_without_lookahead(h100: Machine, tiny_checkpoint: Path) -> None:
    artifact = make(SEVEN, h100, tiny_checkpoint, BuildOptions(companion=True))
    plain = EngineConfig.read(artifact.directory / PLAIN_ENGINE)
    assert (plain.max_draft_len, plain.speculative_decoding_mode) == (0, 1)
    assert plain.max_seq_len == EngineConfig.read(artifact.directory / ENGINE).max_seq_len
    config = (artifact.repository / "tensorrt_llm_plain" / "config.pbtxt").read_text()
    assert 'name: "tensorrt_llm_plain"' in config
    assert 'key: "lookahead_window_size"' not in config


def test_the_torch_engine_refuses_a_companion(machine: Machine, tiny_checkpoint: Path) -> None:
    with pytest.raises(ProfileError, match="needs no companion"):
        make(PROFILES["demo"], machine, tiny_checkpoint, BuildOptions(companion=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lookahead": LookaheadConfig(1, 1, 0)}, "an engine without lookahead samples"),
        ({"max_batch_size": 800_000}, r"companion of .* take \d+\.\d GiB per GPU, H100 has 79\.6"),
    ],
)
def test_a_companion_that_is_not_needed_or_has_no_room_is_refused(
    h100: Machine, tiny_checkpoint: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ProfileError, match=message):
        make(SEVEN.with_limits(**changes), h100, tiny_checkpoint, BuildOptions(companion=True))
    assert h100.calls == []


def test_what_no_gpu_of_a_type_could_run_is_refused_on_any_machine(machine: Machine) -> None:
    """Before the download, and without a GPU to ask: the compiler would take minutes to say so."""
    dry = ["build-engine", "--dry-run", "-p"]
    large = machine.call(*dry, SEVEN.name, "--lookahead", "15,15,15", "--max-batch-size", "256")
    assert large.returncode == 2
    assert "an engine of" in large.stderr
    assert "H100 has 79.6: choose fewer requests at once" in large.stderr
    fp8 = machine.call(*dry, "qwen2.5-coder-7b-instruct-a100-bf16-tp1-w7n7g7", "--precision", "fp8")
    assert fp8.returncode == 3
    assert "compute capability 8.0 has no FP8 arithmetic" in fp8.stderr


def test_every_profile_of_the_table_fits_its_gpu() -> None:
    for profile in PROFILES.values():
        if not profile.is_portable:
            check_plan(profile, find_model(profile.model).shape, BuildOptions())


def test_a_plain_engine_is_built_for_1_1_0(h100: Machine, tiny_checkpoint: Path) -> None:
    artifact = make(replace(SEVEN, lookahead=LookaheadConfig(1, 1, 0)), h100, tiny_checkpoint)
    assert EngineConfig.read(artifact.engine).speculative_decoding_mode == 1


def test_an_engine_is_built_once(h100: Machine, tiny_checkpoint: Path) -> None:
    first = make(SEVEN, h100, tiny_checkpoint)
    count = len(h100.calls)
    assert make(SEVEN, h100, tiny_checkpoint).directory == first.directory
    assert len(h100.calls) == count


def test_lengths_beyond_the_models_positions_are_refused_with_the_longest(tiny_checkpoint: Path) -> None:
    profile = replace(SEVEN, max_seq_len=32768)
    with pytest.raises(ProfileError, match="lower --max-seq-len to 32657 or less"):
        check_profile(profile, Checkpoint.open(tiny_checkpoint).shape)


def test_heads_for_which_lookahead_has_no_kernels_are_refused(tiny_checkpoint: Path) -> None:
    shape = replace(Checkpoint.open(tiny_checkpoint).shape, head_dim=96)
    with pytest.raises(ProfileError, match=r"heads of 96 dimensions, but for 64, 128, 256: choose lookahead \(1,1,0\)"):
        check_profile(SEVEN, shape)
    check_profile(replace(SEVEN, lookahead=LookaheadConfig(1, 1, 0)), shape)


def test_heads_that_cannot_be_split_are_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be split over 3 GPUs"):
        check_profile(replace(SEVEN, tensor_parallel=3), Checkpoint.open(tiny_checkpoint).shape)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("exit", r"could not compile the lookahead engine: exit code 3\n(.|\n)*OutOfMemory(.|\n)*whole log: .*\.log"),
        ("killed", "ran out of memory"),
        ("partial", r"rank1\.engine is missing or empty"),
        ("draft", "max_draft_len 418, planned was 419"),
        ("version", r"version 0\.20\.0, planned was 0\.19\.0"),
    ],
)
def test_a_compiler_that_fails_or_builds_something_else_publishes_nothing(
    h100: Machine, tiny_checkpoint: Path, fault: str, message: str
) -> None:
    h100.set(STANDIN_BUILD=fault)
    with pytest.raises(EngineBuildError, match=message):
        make(THIRTY_TWO, h100, tiny_checkpoint)
    assert h100.artifacts == h100.leftovers == []


@pytest.mark.parametrize("profile", [SEVEN, FP8], ids=["converted", "quantised"])
def test_a_fine_tune_saved_by_transformers_5_keeps_its_rotary_base(
    h100: Machine, tiny_checkpoint: Path, tmp_path: Path, profile: Profile
) -> None:
    checkpoint = Path(shutil.copytree(tiny_checkpoint, tmp_path / "fine-tune"))
    config = json.loads((checkpoint / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
    config["rope_scaling"] = {"type": "default", "rope_type": "default"}
    (checkpoint / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    assert EngineConfig.read(make(profile, h100, checkpoint).engine).shape.rope_theta == 1e6


def test_an_engine_with_another_rotary_base_than_its_checkpoint_is_not_published(
    h100: Machine, tiny_checkpoint: Path
) -> None:
    h100.set(STANDIN_CONVERT="rope")
    with pytest.raises(EngineBuildError, match=r"says rope_theta 10000\.0, planned was 1000000\.0"):
        make(SEVEN, h100, tiny_checkpoint)
    assert h100.artifacts == []


def test_a_driver_that_is_too_old_for_the_container_is_refused_before_anything_is_built(
    h100: Machine, tiny_checkpoint: Path
) -> None:
    h100.set(STANDIN_DRIVER="460.106.00")
    with pytest.raises(IncompatibleError, match=r"driver 460\.106\.00 is too old .*: install 575 or later"):
        make(SEVEN, h100, tiny_checkpoint)
    assert h100.calls == []
    h100.set(STANDIN_DRIVER="[N/A]")
    make(SEVEN, h100, tiny_checkpoint)


def test_a_driver_that_the_containers_own_libraries_make_up_for_is_not(h100: Machine, tiny_checkpoint: Path) -> None:
    h100.set(STANDIN_DRIVER="470.82.01")
    make(SEVEN, h100, tiny_checkpoint)


def test_the_disk_has_to_hold_a_tied_head_twice(
    h100: Machine, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversion writes the embedding a second time as the head: 0.5B has 988 MB, its engine 1277."""
    checked = list[int]()
    monkeypatch.setattr(Cache, "check_space", lambda _cache, needed, _purpose: checked.append(needed))
    make(SEVEN, h100, tiny_checkpoint)
    shape = Checkpoint.open(tiny_checkpoint).shape
    parameters = sum(math.prod(size) for name, size in replace(shape, tie_word_embeddings=False).tensors())
    assert checked == [2 * 2 * parameters]


def test_a_failing_conversion_says_what_it_last_wrote(h100: Machine, tiny_checkpoint: Path) -> None:
    h100.set(STANDIN_CONVERT="exit")
    with pytest.raises(EngineBuildError, match=r"rank 0 of 1: exit code 1\n(.|\n)*file is truncated"):
        make(SEVEN, h100, tiny_checkpoint)
    assert h100.artifacts == []


def test_an_unknown_flag_is_an_error_of_the_stand_in(h100: Machine) -> None:
    """The stand-in is only worth something if it refuses what trtllm-build would refuse."""
    for flag in (["--lookahead"], ["--max_batch_size", "many"], ["--kv_cache_type", "big"], ["--max_draft", "3"]):
        answer = subprocess.run(["trtllm-build", *flag], capture_output=True, text=True, check=False)
        assert answer.returncode == 2, flag


def test_without_a_gpu_the_compiler_fails_as_the_real_one_does(h100: Machine, tmp_path: Path) -> None:
    h100.gpus()
    answer = subprocess.run(["trtllm-build", "--checkpoint_dir", tmp_path], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "No CUDA GPUs are available" in answer.stderr


@pytest.mark.parametrize("profile", [SEVEN, THIRTY_TWO, FP8], ids=lambda profile: profile.name)
def test_the_dry_run_is_a_script_that_makes_the_same_engine(
    h100: Machine, tiny_checkpoint: Path, tmp_path: Path, profile: Profile
) -> None:
    script = shell_script(profile, tiny_checkpoint, BuildOptions(), profile)
    h100.set(WORK=tmp_path / "by-hand")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    artifact = make(profile, h100, tiny_checkpoint)
    by_hand, built = (
        json.loads((d / "config.json").read_text()) for d in (tmp_path / "by-hand" / ENGINE, artifact.engine)
    )
    assert by_hand == built


def test_the_dry_run_explains_its_numbers_and_needs_nothing(machine: Machine) -> None:
    shutil.rmtree(machine.home / "site")
    answer = machine.call("build-engine", "-p", THIRTY_TWO.name, "--dry-run")
    assert answer.returncode == 0
    assert "D = 419" in answer.stdout
    assert "config.json will say 16803" in answer.stdout
    assert f"MODEL=$(nimble-coder download-to-cache -p {THIRTY_TWO.name})" in answer.stdout
    assert machine.calls == []


def test_exit_codes_are_told_in_words() -> None:
    assert outcome(2) == "exit code 2"
    assert "out of memory" in outcome(-9)
    assert outcome(-11) == "it ended by SIGSEGV"
