"""`step.cpp` as libraries: one per instruction set, made when the package is installed, chosen when an engine loads.

The installation runs this without the package's dependencies (`hatch_build.py`): the standard library alone.
"""

import hashlib
import os
import platform
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("step.cpp")
FLAGS = ("-O3", "-fno-ivopts", "-std=c++20", "-shared", "-fPIC", "-pthread", "-static-libstdc++", "-static-libgcc")
"""The result needs the C library alone, so it runs where no compiler is installed. `-fno-ivopts`: left to choose the
loops' counters, GCC 12 keeps so many that a product of three rows in bf16 takes 1.7 times as long."""


class CompileError(RuntimeError):
    """The step cannot be compiled; says why. Without it PyTorch's operators run the engine, several times slower."""


IN_ORDER = ("-fno-tree-reassoc", "-fno-tree-ter")
"""Sums stay in the order that they are written in. GCC 12 otherwise forms all products of a group before it adds up the
first, more than 16 registers hold, and many rows of int4 or int8 take 1.3 to 1.4 times as long."""


@dataclass(frozen=True)
class InstructionSet:
    """What a library is compiled for; one made for a newer processor does not run on an older one."""

    name: str
    flags: tuple[str, ...]
    """The compiler's."""
    needs: frozenset[str]
    """Flags in `/proc/cpuinfo`."""

    def library(self, directory: Path) -> Path:
        """Where its library is. The name tells the source, so that an old library is never taken for a new one."""
        sources = b"".join(path.read_bytes() for path in [SOURCE, *sorted(SOURCE.parent.glob("*.h"))])
        source = hashlib.sha256(sources + repr((FLAGS, self.flags)).encode()).hexdigest()
        return directory / f"step-{self.name}-{source[:12]}.so"


AVX2 = frozenset({"avx2", "fma", "f16c", "bmi2"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
VNNI = AVX512 | {"avx512_vnni"}
INSTRUCTION_SETS = {
    "x86_64": (
        InstructionSet("avx512bf16", ("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"), VNNI | {"avx512_bf16"}),
        InstructionSet("avx512vnni", ("-march=x86-64-v4", "-mavx512vnni"), VNNI),
        InstructionSet("avx512", ("-march=x86-64-v4",), AVX512),
        InstructionSet("avxvnni", ("-march=x86-64-v3", "-mavxvnni"), AVX2 | {"avx_vnni"}),
        InstructionSet("avx2", ("-march=x86-64-v3", *IN_ORDER), AVX2),
    ),
    "aarch64": (InstructionSet("neon", ("-march=armv8-a",), frozenset()),),
}
"""By architecture, the fastest first."""


def compile_step(directory: Path = SOURCE.parent) -> list[Path]:
    """Compiles the libraries of this architecture that are not in `directory` yet and returns all of them.

    The compiler is `CXX`, or g++. Raises `CompileError`.
    """
    targets = INSTRUCTION_SETS.get(platform.machine(), ())
    if not targets:
        raise CompileError(f"no instruction set of {platform.machine()} is known here")
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda target: compile_library(target, directory), targets))


def compile_library(target: InstructionSet, directory: Path) -> Path:
    """One of them; it has its name only once it is whole."""
    library = target.library(directory)
    if library.is_file():
        return library
    draft = library.with_suffix(f".{os.getpid()}")
    command = [*shlex.split(os.environ.get("CXX") or "g++"), *FLAGS, *target.flags, str(SOURCE), "-o", str(draft)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise CompileError(f"there is no {command[0]}: install it and install this package again") from None
    except subprocess.CalledProcessError as error:
        raise CompileError(f"{command[0]} failed: {error.stderr.strip()[-400:]}") from None
    for old in directory.glob(f"step-{target.name}-*.so"):
        old.unlink()
    return draft.rename(library)


def find_step(directory: Path = SOURCE.parent, cpuinfo: Path = Path("/proc/cpuinfo")) -> list[Path]:
    """The compiled libraries that this machine's processor can run, the fastest first."""
    lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines() if cpuinfo.is_file() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    targets = INSTRUCTION_SETS.get(platform.machine(), ())
    return [path for t in targets if t.needs <= set(flags) and (path := t.library(directory)).is_file()]
