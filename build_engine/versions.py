"""Which NVIDIA container can run lookahead engines, and which GPU: one table, with the evidence for each line.

Asked before anything is downloaded. Versions are those of TensorRT-LLM; the containers are
`nvcr.io/nvidia/tritonserver:YY.MM-trtllm-python-py3` (docs/introduction/compatibility.md of triton-inference-server).
"""

import re
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version

from build_engine.exit_codes import ExitCode

CONTAINER = "nvcr.io/nvidia/tritonserver:25.05-trtllm-python-py3"
TENSORRT_LLM = "0.19.0"
"""The pin: what an engine is built with and served by."""


class IncompatibleError(RuntimeError):
    """Software or hardware that cannot run what was asked for; says why and what to use instead."""

    exit_code = ExitCode.MACHINE


class Verdict(Enum):
    """What is known of a version with lookahead engines."""

    PINNED = "pinned"
    REFUSED = "refused"
    UNPROVEN = "unproven"


@dataclass(frozen=True)
class Line:
    """One range of TensorRT-LLM versions, from `first` up to the next line's."""

    first: tuple[int, ...]
    container: tuple[int, int]
    """The first release (year, month) of NVIDIA's container that has it."""
    containers: str
    verdict: Verdict
    reason: str
    evidence: str


LINES = (
    Line(
        (0,),
        (0, 0),
        "up to 25.04",
        Verdict.REFUSED,
        "its C++ backend has no lookahead parameters and asserts when it loads a lookahead engine",
        "tensorrtllm_backend v0.16 to v0.18.2: no `lookahead_*` parameter in config.pbtxt or the sources; issue #710",
    ),
    Line(
        (0, 19),
        (25, 5),
        "25.05",
        Verdict.PINNED,
        "the first release whose C++ backend takes lookahead parameters",
        "tensorrtllm_backend v0.19.0: inflight_batcher_llm/src/model_instance_state.cc, utils.cc; TensorRT-LLM "
        "PR #3269 moved lookahead on Hopper to other kernels in it, so what was seen with 0.18 says nothing of it",
    ),
    Line(
        (0, 20),
        (25, 6),
        "25.06 and 25.07",
        Verdict.REFUSED,
        "it crashes while decoding with lookahead (kvCacheUpdateKernels.cu: invalid configuration argument)",
        "TensorRT-LLM issue #5451, open since 2025-06-24; likely from PR #3028, which rewrote the KV block managers",
    ),
    Line(
        (0, 21),
        (25, 8),
        "25.08 to 26.07",
        Verdict.UNPROVEN,
        "nobody has reported whether the crash of 0.20.0 is mended in it",
        "TensorRT-LLM issue #5451 is still open, and no change that mends it was found in any version",
    ),
    Line(
        (1, 3),
        (26, 8),
        "after 26.07",
        Verdict.REFUSED,
        "it has no TensorRT engines any more: PyTorch is its only backend, and that has no lookahead decoding",
        "TensorRT-LLM removals #15763 (2026-06-30), #15907 (2026-07-03), #15918, and of the C++ executor #16369; "
        "tensorrtllm_backend PR #858",
    ),
)

LOOKAHEAD_SM = (80, 86, 87, 89, 90)
"""Compute capabilities (x10) with multi-token XQA kernels: the cubins in TensorRT-LLM's decoderXQA directory."""
FP8_SM = 89
"""The first compute capability (x10) with FP8 tensor cores."""
DRIVER, LEAST_DRIVER = 575, 470
"""Of CUDA 12.9, which the container 25.05 has; and the least that it can do with, on a data centre's GPU, by the CUDA
libraries that it brings (Triton's release notes 25.04 and 25.06, "Driver Requirements")."""
CUDA_DRIVERS = {"nvidia-cuda-runtime": ("13", 580), "nvidia-cuda-runtime-cu12": ("12", 525)}
"""What PyTorch's CUDA builds bring, with CUDA's major version and the least driver for it:
docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html."""


def line_of(tensorrt_llm: str) -> Line:
    """The table's line for a version such as `0.19.0` or `1.2.0rc1`; raises `IncompatibleError` for no version."""
    try:
        wanted = tuple(int(part) for part in tensorrt_llm.split(".")[:2])
    except ValueError:
        raise IncompatibleError(f"{tensorrt_llm!r} is no TensorRT-LLM version; use the container {CONTAINER}") from None
    return next(line for line in reversed(LINES) if wanted >= line.first)


def line_of_container(name: str) -> Line:
    """The table's line for a container's tag, release or whole name, such as `25.05-trtllm-python-py3` or `25.05`.

    Raises `IncompatibleError` for what names no release.
    """
    found = re.search(r"(?:^|:)(\d\d)\.(\d\d)(?:$|-)", name)
    if found is None:
        raise IncompatibleError(f"{name!r} names no release of NVIDIA's Triton container; use {CONTAINER}")
    release = int(found[1]), int(found[2])
    return next(line for line in reversed(LINES) if release >= line.container)


def check_container(name: str, allow_unproven: bool = False) -> Line:
    """The container's line where it can run lookahead engines; raises `IncompatibleError` otherwise."""
    line = line_of_container(name)
    if line.verdict is Verdict.PINNED or (line.verdict is Verdict.UNPROVEN and allow_unproven):
        return line
    raise IncompatibleError(
        f"the container {name} ({line.containers}) cannot be the base: {line.reason} ({line.evidence}); use {CONTAINER}"
    )


def installed_tensorrt_llm() -> str | None:
    """The version of TensorRT-LLM here, without importing it: that would need a GPU."""
    try:
        return version("tensorrt_llm")
    except PackageNotFoundError:
        return None


def installed_cuda() -> tuple[str, int] | None:
    """CUDA's major version that PyTorch brought along, and the least driver for it; None where it brought none."""
    for name, found in CUDA_DRIVERS.items():
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return found
    return None


def compiles_here(allow_unproven: bool = False) -> bool:
    """Whether TensorRT engines can be compiled with what is installed here."""
    try:
        check_version(installed_tensorrt_llm(), allow_unproven)
    except IncompatibleError:
        return False
    return True


def check_driver_for_container(driver: str) -> None:
    """Raises `IncompatibleError` where a driver is too old for the CUDA of NVIDIA's container."""
    if int(driver.split(".", maxsplit=1)[0]) < LEAST_DRIVER:
        raise IncompatibleError(
            f"driver {driver} is too old for the CUDA of {CONTAINER}: install {DRIVER} or later on this machine"
        )


def check_driver_for_pytorch(driver: str) -> None:
    """Raises `IncompatibleError` where a driver is too old for the CUDA that PyTorch brought along."""
    cuda, least = installed_cuda() or ("", 0)
    if int(driver.split(".", maxsplit=1)[0]) < least:
        raise IncompatibleError(
            f"driver {driver} is too old for PyTorch's CUDA {cuda}: install {least} or later on this machine"
        )


def check_version(found: str | None, allow_unproven: bool = False) -> str:
    """Returns the version where it can build and serve lookahead engines; raises `IncompatibleError` otherwise."""
    if found is None:
        raise IncompatibleError(
            f"TensorRT-LLM is not installed here, so no engine can be compiled: run this in the container {CONTAINER}, "
            f"or choose a profile of the torch engine"
        )
    line = line_of(found)
    if line.verdict is Verdict.PINNED or (line.verdict is Verdict.UNPROVEN and allow_unproven):
        return found
    remedy = f"use TensorRT-LLM {TENSORRT_LLM}: {CONTAINER}, or a profile of the torch engine, which runs on CUDA too"
    if line.verdict is Verdict.UNPROVEN:
        remedy += "; or try it with --allow-unproven and let the verification decide"
    raise IncompatibleError(f"TensorRT-LLM {found} ({line.containers}): {line.reason} ({line.evidence}); {remedy}")


def check_compute_capability(sm: int, fp8: bool) -> None:
    """Raises `IncompatibleError` where a GPU of compute capability `sm` / 10 cannot run a lookahead engine."""
    if sm < LOOKAHEAD_SM[0]:
        raise IncompatibleError(
            f"compute capability {sm / 10} is below 8.0, the least for lookahead decoding: use an Ampere, Ada or "
            f"Hopper GPU, or a profile of the torch engine"
        )
    if sm not in LOOKAHEAD_SM:
        raise IncompatibleError(
            f"TensorRT-LLM has no multi-token attention (XQA) kernels for compute capability {sm / 10} "
            f"(TensorRT-LLM issue #6158): use an Ampere, Ada or Hopper GPU, or a profile of the torch engine"
        )
    if fp8 and sm < FP8_SM:
        raise IncompatibleError(
            f"compute capability {sm / 10} has no FP8 arithmetic, 8.9 is the first: choose a bf16 profile"
        )
