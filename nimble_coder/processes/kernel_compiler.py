"""What the GPU's kernels, which are in Triton's language, need of a machine to be compiled and kept.

Triton's language brings a compiler for kernels. At a kernel's first use it also has a C compiler make a small library
that starts it, linked with the driver's (triton/runtime/build.py and triton/backends/nvidia/driver.py, 3.6.0).
"""

import os
import shutil
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from build_engine.hardware import has_driver

KEPT = "TRITON_CACHE_DIR"
"""Where compiled kernels are kept; otherwise below the home directory. It is made where it is not there."""


def lacking() -> Iterator[tuple[str, str]]:
    """What is not here of what the kernels need, each with what to do."""
    if (torch := _version("torch") or "none").endswith("+cpu") or torch == "none":
        yield f"PyTorch's CUDA build (there is {torch})", "install PyTorch from PyPI"
    if not _version("triton"):
        yield "Triton's language", "install the `triton` that PyTorch's CUDA build asks for"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        yield "a C compiler", "install gcc and libc6-dev"
    if not Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").is_file():
        yield "Python's headers", "install python3-dev"
    if not has_driver():
        yield "libcuda.so.1", "install NVIDIA's driver; in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility"


def without_unwritable(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, without a place for compiled kernels that cannot be written: Triton's language would fail."""
    place = Path(environment.get(KEPT) or os.devnull)
    existing = next(path for path in (place, *place.parents) if os.path.lexists(path))
    if existing.is_dir() and os.access(existing, os.W_OK):
        return dict(environment)
    return {name: value for name, value in environment.items() if name != KEPT}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
