"""Compiles the portable engine's step (`step.cpp`) for each instruction set of this processor architecture."""

import os
import platform
import shlex
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from build_engine.checkpoint import ModelShape

SOURCE = Path(__file__).with_name("step.cpp")
FLAGS = ("-O3", "-std=c++20", "-fPIC", "-pthread")
LINK_FLAGS = ("-shared", "-static-libstdc++", "-static-libgcc")
"""The result needs the C library alone, so it runs where no compiler is installed."""
HEAD_DIMS = (64, 128, 256)
"""What the compiled attention takes; Qwen2.5-Coder has 64 and 128."""
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class InstructionSet:
    """A library of its own, since one made for a newer processor does not run on an older one."""

    name: str
    compiler_flags: tuple[str, ...]
    needs: frozenset[str]
    """Flags in `/proc/cpuinfo`."""

    def library(self, engine_dir: Path) -> Path:
        return engine_dir / f"step-{self.name}.so"


AVX2 = frozenset({"avx2", "fma", "f16c", "bmi2"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
INSTRUCTION_SETS = {
    "x86_64": (
        InstructionSet("avx512bf16", ("-march=x86-64-v4", "-mavx512bf16"), AVX512 | {"avx512_bf16"}),
        InstructionSet("avx512", ("-march=x86-64-v4",), AVX512),
        InstructionSet("avx2", ("-march=x86-64-v3",), AVX2),
    ),
    "aarch64": (InstructionSet("neon", ("-march=armv8-a",), frozenset()),),
}
"""By architecture, the fastest first."""


def compile_step(engine_dir: Path, shape: ModelShape, dtype: str, progress: Callable[[str], None]) -> None:
    """Writes `step-*.so` into `engine_dir`; where that cannot be, only says so: the engine runs without, slower.

    The compiler is `CXX`, or g++.
    """
    libraries = INSTRUCTION_SETS.get(platform.machine(), ()) if takes(shape, dtype) else ()
    if not libraries:
        progress("the step of this model cannot be compiled here: PyTorch's operators will run it, slower")
        return
    progress(f"compiling the decoding step for {', '.join(each.name for each in libraries)}")
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda each: compile_library(each, engine_dir), libraries))
    except FileNotFoundError as error:
        progress(f"there is no {error.filename}: the step is not compiled, and slower; install it and build again")
    except subprocess.CalledProcessError as error:
        progress(f"{error.cmd[0]} failed: the step is not compiled, and slower: {error.stderr[-400:]}")


def compile_library(target: InstructionSet, engine_dir: Path) -> None:
    """Compiles and links one library; two commands, since ccache keeps the results of compiling alone."""
    library = target.library(engine_dir)
    compiled = library.with_suffix(".o")
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    compiling = [*compiler, *FLAGS, *target.compiler_flags, "-c", str(SOURCE), "-o", str(compiled)]
    linking = [*compiler, *FLAGS, *LINK_FLAGS, str(compiled), "-o", str(library)]
    for command in (compiling, linking):
        subprocess.run(command, check=True, capture_output=True, text=True)
    compiled.unlink()


def takes(shape: ModelShape, dtype: str) -> bool:
    """Whether the compiled step computes models of this shape and dtype."""
    return shape.head_dim in HEAD_DIMS and dtype in DTYPES


def find_step(engine_dir: Path, cpuinfo: Path = Path("/proc/cpuinfo")) -> Path | None:
    """The fastest compiled step of an engine that this machine's processor can run."""
    lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines() if cpuinfo.is_file() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    for each in INSTRUCTION_SETS.get(platform.machine(), ()):
        if each.needs <= set(flags) and each.library(engine_dir).is_file():
            return each.library(engine_dir)
    return None
