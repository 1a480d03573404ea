"""What runs where, why not, and which profile is taken by itself."""

from pathlib import Path

import pytest

from build_engine.catalog import MODELS
from build_engine.checkpoint import Checkpoint
from build_engine.hardware import detect_hardware
from build_engine.profiles import PROFILES, ProfileError
from build_engine.selection import Fit, assess, matching_gpus, profile_of, select_profile
from build_engine.versions import IncompatibleError
from tests.standin.machine import A10G, A100, B200, H100, L4, T4, Machine

H100_7B = "qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"
H100_32B = "qwen2.5-coder-32b-instruct-h100-bf16-tp2-w15n15g15"


@pytest.mark.parametrize(
    ("gpus", "model", "expected"),
    [
        ([], None, "demo"),
        ([B200], None, "qwen2.5-coder-7b-instruct-torch-cuda-bf16-w15n15g15"),
        ([T4], None, "demo"),
        ([H100], None, H100_7B),
        ([A10G], None, "qwen2.5-coder-7b-instruct-a10g-bf16-tp1-w5n5g5"),
        ([H100], "qwen2.5-coder-14b", "qwen2.5-coder-14b-h100-bf16-tp1-w8n8g8"),
        ([H100, H100], "Qwen/Qwen2.5-Coder-32B-Instruct", H100_32B),
        ([], "qwen2.5-coder-1.5b", "qwen2.5-coder-1.5b-torch-bf16-w1n4g1"),
        (
            [["NVIDIA L4", "8.9", 23034, 12000]],
            "qwen2.5-coder-7b-instruct",
            "qwen2.5-coder-7b-instruct-l4-fp8-tp1-w8n8g8",
        ),
    ],
)
def test_the_profile_taken_by_itself(
    machine: Machine, gpus: list[list[object]], model: str | None, expected: str
) -> None:
    machine.gpus(*gpus)
    machine.tensorrt_llm("0.19.0")
    assert select_profile(detect_hardware(), model).name == expected


@pytest.mark.parametrize(
    ("gpus", "model", "expected"),
    [
        ([H100], None, "qwen2.5-coder-7b-instruct-torch-cuda-bf16-w15n15g15"),
        ([A10G], "qwen2.5-coder-1.5b", "qwen2.5-coder-1.5b-torch-cuda-bf16-w15n15g15"),
        ([T4], None, "demo"),
        ([T4], "qwen2.5-coder-0.5b", "qwen2.5-coder-0.5b-torch-bf16-w1n4g1"),
        ([], None, "demo"),
    ],
)
def test_without_tensorrt_llm_the_portable_engine_runs_on_the_gpu(
    machine: Machine, gpus: list[list[object]], model: str | None, expected: str
) -> None:
    machine.gpus(*gpus)
    assert select_profile(detect_hardware(), model).name == expected


@pytest.mark.parametrize(
    ("version", "allow_unproven", "engine"),
    [
        ("0.19.0", False, "tensorrt"),
        ("0.20.0", True, "torch"),
        ("1.1.0", False, "torch"),
        ("1.1.0", True, "tensorrt"),
        ("1.4.0", True, "torch"),
    ],
)
def test_a_tensorrt_llm_that_no_build_would_take_is_not_chosen_by_itself(
    machine: Machine, version: str, allow_unproven: bool, engine: str
) -> None:
    machine.gpus(H100)
    machine.tensorrt_llm(version)
    assert select_profile(detect_hardware(), allow_unproven=allow_unproven).engine == engine
    flag = ["--allow-unproven"] if allow_unproven else []
    printed = machine.call("build-engine", "--dry-run", *flag).stdout
    assert ("trtllm-build" in printed) == (engine == "tensorrt")


def test_the_portable_engine_runs_on_the_gpu_with_most_room(machine: Machine) -> None:
    machine.gpus(T4, [*A10G[:3], 9000], A10G)
    profile = PROFILES["qwen2.5-coder-1.5b-torch-cuda-bf16-w15n15g15"]
    assert [gpu.free_mib for gpu in matching_gpus(profile, detect_hardware())] == [A10G[3]]


def test_a_gpu_without_room_for_16_bits_gets_8_where_it_multiplies_them(machine: Machine) -> None:
    machine.gpus([*H100[:3], 60000])
    chosen = select_profile(detect_hardware(), "qwen2.5-coder-32b-instruct")
    assert chosen.name == "qwen2.5-coder-32b-instruct-torch-cuda-fp8-w15n15g15"
    machine.gpus(A10G)
    with pytest.raises(IncompatibleError, match=r"needs compute capability 8\.9 or more"):
        matching_gpus(chosen, detect_hardware())


def test_a_model_that_runs_nowhere_here_is_refused_with_the_closest_profile(machine: Machine) -> None:
    machine.gpus([*H100[:3], 30000])
    machine.tensorrt_llm("0.19.0")
    with pytest.raises(ProfileError, match=r"no profile of .*32b-instruct runs here.*needs .* GiB per GPU"):
        select_profile(detect_hardware(), "qwen2.5-coder-32b-instruct")


@pytest.mark.parametrize(
    ("gpus", "profile", "fit", "reason", "remedy"),
    [
        ([], H100_7B, Fit.INCOMPATIBLE, "no GPU found", "H100"),
        ([A100], H100_7B, Fit.INCOMPATIBLE, "needs H100, this machine has NVIDIA A100", "choose a profile for a100"),
        ([H100], H100_32B, Fit.INCOMPATIBLE, "needs 2 H100, this machine has 1", "fp8"),
        ([B200], H100_7B, Fit.INCOMPATIBLE, "compute capability 10.0", "torch engine"),
        ([T4], H100_7B, Fit.INCOMPATIBLE, "compute capability 7.5", "torch engine"),
        ([[*H100[:3], 9000]], H100_7B, Fit.LOW_MEMORY, "8.8 GiB of 79.6 GiB are free", "nvidia-smi"),
        ([[*H100[:3], "[N/A]"]], H100_7B, Fit.LOW_MEMORY, "does not tell how much is free", "MIG"),
        ([H100], H100_7B, Fit.RUNNABLE, "sequences of full length", ""),
        ([], "demo", Fit.RUNNABLE, "any machine", ""),
    ],
)
def test_a_verdict_has_a_reason_and_a_concrete_remedy(
    machine: Machine, gpus: list[list[object]], profile: str, fit: Fit, reason: str, remedy: str
) -> None:
    machine.gpus(*gpus)
    verdict = assess(PROFILES[profile], detect_hardware())
    assert verdict.fit is fit
    assert reason in verdict.reason
    assert remedy in verdict.remedy


def test_where_a_gpu_is_too_small_the_remedy_is_a_length_that_fits(machine: Machine) -> None:
    machine.gpus([*L4[:2], 18000, 17800])
    profile = PROFILES["qwen2.5-coder-7b-instruct-l4-bf16-tp1-w8n8g8"].with_limits(max_seq_len=30000)
    verdict = assess(profile, detect_hardware())
    assert verdict.fit is Fit.LOW_MEMORY
    assert "--max-seq-len" in verdict.remedy
    length, prompt = (int(word) for word in verdict.remedy.replace(":", "").split() if word.isdigit())
    smaller = profile.with_limits(max_seq_len=length, max_input_len=prompt)
    assert assess(smaller, detect_hardware()).fit is Fit.RUNNABLE


@pytest.mark.parametrize(
    ("place", "gpus", "expected", "served"),
    [
        ("0.5b", [], "0.5b-torch-bf16-w1n4g1", "0.5b"),
        ("my tuned, Coder", [], "my-tuned-Coder-torch-bf16-w1n4g1", "my-tuned-Coder"),
        ("tuned", [H100], "tuned-h100-bf16-tp1-w8n8g8", "tuned"),
        ("hub/models--acme--tuned-coder/snapshots/0123", [], "tuned-coder-torch-bf16-w1n4g1", "tuned-coder"),
        (
            "Qwen2.5-Coder-0.5B-Instruct",
            [],
            "qwen2.5-coder-0.5b-instruct-torch-bf16-w1n4g1",
            "qwen2.5-coder-0.5b-instruct",
        ),
    ],
)
def test_a_checkpoint_of_ones_own_is_called_after_itself(
    machine: Machine, place: str, gpus: list[list[object]], expected: str, served: str
) -> None:
    machine.gpus(*gpus)
    machine.tensorrt_llm("0.19.0")
    checkpoint = Checkpoint(Path("/models") / place, MODELS["qwen2.5-coder-0.5b"].shape, {})
    profile = profile_of(checkpoint, detect_hardware())
    assert (profile.name, profile.served_names) == (expected, [served, expected, "qwen2.5-coder"])


def test_a_shape_that_nobody_published_is_for_the_portable_engine_and_no_longer_than_the_model(
    machine: Machine, tiny_checkpoint: Path
) -> None:
    machine.gpus(H100)
    profile = profile_of(Checkpoint.open(tiny_checkpoint), detect_hardware())
    assert (profile.name, profile.engine) == ("tiny-torch-cuda-bf16-w15n15g15", "torch")
    assert profile.max_input_len < profile.max_seq_len <= Checkpoint.open(tiny_checkpoint).shape.max_position_embeddings
