"""Compiles the portable engine's step (`step.cpp`) for each instruction set of this processor architecture."""

import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("step.cpp")
COMPILER = "g++"
FLAGS = ("-O3", "-std=c++20", "-shared", "-fPIC", "-pthread", "-static-libstdc++", "-static-libgcc")
"""The result needs the C library alone, so it runs where no compiler is installed."""


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


def compile_step(engine_dir: Path, progress: Callable[[str], None]) -> None:
    """Writes `step-*.so` into `engine_dir`; where that cannot be, only says so: the engine runs without, slower."""
    libraries = INSTRUCTION_SETS.get(platform.machine(), ())
    try:
        for number, each in enumerate(libraries, 1):
            progress(f"compiling the decoding step for {each.name} ({number} of {len(libraries)})")
            command = [COMPILER, *FLAGS, *each.compiler_flags, str(SOURCE), "-o", str(each.library(engine_dir))]
            subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        progress(f"there is no {COMPILER}, so the step is not compiled and will be slower; install it and build again")
    except subprocess.CalledProcessError as error:
        progress(f"{COMPILER} did not compile the step, which will be slower: {error.stderr[-400:]}")


def find_step(engine_dir: Path, cpuinfo: Path = Path("/proc/cpuinfo")) -> Path | None:
    """The fastest compiled step of an engine that this machine's processor can run."""
    lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines() if cpuinfo.is_file() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    for each in INSTRUCTION_SETS.get(platform.machine(), ()):
        if each.needs <= set(flags) and each.library(engine_dir).is_file():
            return each.library(engine_dir)
    return None
