"""The guard: which TensorRT-LLM and which GPU can do lookahead decoding."""

import pytest

from build_engine.versions import LINES, IncompatibleError, check_compute_capability, check_version


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.17.0.post1", "no lookahead parameters"),
        ("0.18.2", "no lookahead parameters"),
        ("0.20.0", "#5451"),
        ("0.21.0", "--allow-unproven"),
        ("1.2.1", "--allow-unproven"),
        ("1.3.0rc2", "no TensorRT engines any more"),
        ("2.0.0", "no TensorRT engines any more"),
        ("later", "no TensorRT-LLM version"),
    ],
)
def test_a_version_that_cannot_or_may_not_is_refused_with_reason_and_container(version: str, words: str) -> None:
    with pytest.raises(IncompatibleError) as refusal:
        check_version(version)
    assert words in str(refusal.value)
    assert "25.05-trtllm" in str(refusal.value)
    if words != "no TensorRT-LLM version":
        assert "a profile of the torch engine, which runs on CUDA too" in str(refusal.value)


def test_the_pinned_version_is_taken() -> None:
    assert check_version("0.19.0") == "0.19.0"


def test_unproven_versions_are_taken_on_request_and_refused_ones_never() -> None:
    assert check_version("1.0.0", allow_unproven=True) == "1.0.0"
    with pytest.raises(IncompatibleError):
        check_version("0.20.0", allow_unproven=True)


def test_a_machine_without_tensorrt_llm_is_told_which_container_to_use() -> None:
    with pytest.raises(IncompatibleError, match=r"not installed here.*25\.05"):
        check_version(None)


def test_every_line_of_the_table_has_evidence() -> None:
    assert [line.first for line in LINES] == sorted(line.first for line in LINES)
    assert all(line.evidence for line in LINES)


@pytest.mark.parametrize("sm", [80, 86, 87, 89, 90])
def test_ampere_ada_and_hopper_decode_with_lookahead(sm: int) -> None:
    check_compute_capability(sm, fp8=False)


@pytest.mark.parametrize(
    ("sm", "fp8", "words"),
    [(75, False, "below 8.0"), (100, False, "XQA"), (120, False, "XQA"), (80, True, "FP8"), (86, True, "FP8")],
)
def test_other_gpus_are_refused_with_the_reason(sm: int, fp8: bool, words: str) -> None:
    with pytest.raises(IncompatibleError, match=words):
        check_compute_capability(sm, fp8)
