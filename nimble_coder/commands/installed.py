"""The versions of what this machine has to serve with; imports none of it."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nimble_coder.processes.triton_container import ROOT

BUNDLED_TRITON = {"0.7.0": "2.51.0"}
"""The tritonserver that a release of the nvidia-pytriton wheel carries (its changelog)."""


def installed_versions() -> dict[str, str | None]:
    """By name, None for what is not here. `container` is the release of NVIDIA's Triton container."""
    return {
        "nimble-coder": found("nimble-coder"),
        "python": platform.python_version(),
        "torch": found("torch"),
        "tensorrt_llm": found("tensorrt_llm"),
        "triton": triton(),
        "container": container_release(),
    }


def found(package: str) -> str | None:
    """A package's version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def triton(root: Path = ROOT) -> str | None:
    """The container's Triton, or the wheel's."""
    file = root / "TRITON_VERSION"
    if file.is_file():
        return file.read_text(encoding="utf-8").strip()
    wheel = found("nvidia-pytriton")
    return f"{BUNDLED_TRITON.get(wheel, 'unknown')} (nvidia-pytriton {wheel})" if wheel else None


def container_release() -> str | None:
    """NVIDIA's containers say it in a variable."""
    return os.environ.get("NVIDIA_TRITON_SERVER_VERSION")
