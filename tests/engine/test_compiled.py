"""The step is compiled where there is a compiler, and only what the processor can run is chosen."""

import platform
from pathlib import Path

import pytest

from nimble_coder.engine import compiled
from nimble_coder.engine.compiled import AVX2, AVX512, VNNI, CompileError, compile_step, find_step

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86's instruction sets")


@on_x86
def test_the_fastest_library_that_the_processor_can_run_comes_first(tmp_path: Path) -> None:
    for target in compiled.INSTRUCTION_SETS["x86_64"]:
        target.library(tmp_path).touch()
    cpuinfo = tmp_path / "cpuinfo"
    for flags, expected in (
        (VNNI | {"avx512_bf16"}, ["avx512bf16", "avx512vnni", "avx512", "avx2"]),
        (VNNI, ["avx512vnni", "avx512", "avx2"]),
        (AVX512, ["avx512", "avx2"]),
        (AVX2 | {"avx_vnni"}, ["avxvnni", "avx2"]),
        (AVX2, ["avx2"]),
        (AVX2 - {"fma"}, []),
    ):
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {' '.join(sorted(flags))}\n")
        assert [path.name.split("-")[1] for path in find_step(tmp_path, cpuinfo)] == expected


def test_a_library_of_another_source_is_not_chosen(tmp_path: Path) -> None:
    for path in find_step():
        (tmp_path / path.name.replace(path.stem[-12:], "0" * 12)).touch()
    assert find_step(tmp_path) == []


def test_compiling_replaces_the_libraries_of_older_sources_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "step.cpp"
    source.write_text("int answer() { return 42; }\n")
    monkeypatch.setattr(compiled, "SOURCE", source)
    first = compile_step(tmp_path)
    assert compile_step(tmp_path) == first
    source.write_text("int answer() { return 43; }\n")
    second = compile_step(tmp_path)
    assert not set(first) & set(second)
    assert sorted(tmp_path.iterdir()) == sorted([source, *second])


def test_without_a_compiler_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompileError, match="there is no no-such-compiler: install it and install this package again"):
        compile_step(tmp_path)


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ --no-such-option")
    with pytest.raises(CompileError, match="no-such-option"):
        compile_step(tmp_path)
    assert list(tmp_path.iterdir()) == []
