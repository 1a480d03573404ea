"""The step is compiled where there is a compiler, and only what the processor has is chosen."""

import platform
from pathlib import Path

import pytest

from build_engine.checkpoint import ModelShape
from build_engine.engines.native import AVX2, AVX512, compile_step, find_step

SHAPE = ModelShape(512, 128, 256, 1, 2, 2, 64, 1e-6, 1e4, 512, True)
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86's instruction sets")


def compiled(directory: Path, shape: ModelShape = SHAPE, dtype: str = "float32") -> tuple[list[str], list[str]]:
    """The libraries that were made, and what was said."""
    said: list[str] = []
    compile_step(directory, shape, dtype, said.append)
    return sorted(path.name for path in directory.iterdir()), said


@on_x86
def test_the_fastest_library_that_the_processor_can_run_is_chosen(tmp_path: Path) -> None:
    names, said = compiled(tmp_path)
    assert names == ["step-avx2.so", "step-avx512.so", "step-avx512bf16.so"]
    assert said == ["compiling the decoding step for avx512bf16, avx512, avx2"]
    cpuinfo = tmp_path / "cpuinfo"
    for flags, expected in (
        (AVX512 | {"avx512_bf16"}, "step-avx512bf16.so"),
        (AVX512, "step-avx512.so"),
        (AVX2, "step-avx2.so"),
        (AVX2 - {"fma"}, None),
    ):
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {' '.join(sorted(flags))}\n")
        found = find_step(tmp_path, cpuinfo)
        assert (found and found.name) == expected


def test_without_a_compiler_the_build_goes_on_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    names, said = compiled(tmp_path)
    assert names == []
    assert "there is no no-such-compiler" in said[-1]
    assert "install it and build again" in said[-1]


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ --no-such-option")
    names, said = compiled(tmp_path)
    assert names == []
    assert "no-such-option" in said[-1]


@pytest.mark.parametrize(("head_dim", "dtype"), [(16, "float32"), (64, "float16")])
def test_models_that_the_step_does_not_take_are_left_to_pytorch(tmp_path: Path, head_dim: int, dtype: str) -> None:
    shape = ModelShape(512, 128, 256, 1, 2, 2, head_dim, 1e-6, 1e4, 512, True)
    names, said = compiled(tmp_path, shape, dtype)
    assert names == []
    assert "PyTorch's operators" in said[-1]
