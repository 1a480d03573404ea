"""The GPUs of this machine, and the GPU types that profiles are written for."""

import csv
import ctypes
import io
import re
import shutil
import subprocess
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class GpuType:
    """A GPU type under the name that profiles use."""

    name: str
    sm: int
    """Compute capability x10."""
    memory_mib: int
    """What `nvidia-smi` reports as total."""
    product: str
    """Matches the product name that the driver reports."""
    bandwidth: float
    """Of its memory, in TB/s: NVIDIA's data sheet, as is the next."""
    tflops: float
    """In bf16, without sparsity."""

    @property
    def ridge(self) -> float:
        """FLOP per byte of memory traffic: about the rows that a step computes while it reads weights of bf16."""
        return self.tflops / self.bandwidth


GPU_TYPES = {
    gpu.name: gpu
    for gpu in (
        GpuType("h200", 90, 143771, r"\bH200\b", 4.8, 989),
        GpuType("h100", 90, 81559, r"\bH100\b", 3.35, 989),
        GpuType("a100", 80, 81920, r"\bA100\b.*80GB", 2.039, 312),
        GpuType("a100-40gb", 80, 40960, r"\bA100\b", 1.555, 312),
        GpuType("l40s", 89, 46068, r"\bL40S\b", 0.864, 362),
        GpuType("l4", 89, 23034, r"\bL4\b", 0.3, 121),
        GpuType("a10g", 86, 23028, r"\bA10G\b", 0.6, 70),
    )
}
"""By name, fastest first. A product matches the first type that fits."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver reports it."""

    index: int
    product: str
    sm: int
    memory_mib: int
    free_mib: int
    """0 where nvidia-smi does not tell, as the one before: a share of a GPU (MIG), or memory that is the CPU's too."""
    bus: str = ""

    @property
    def type(self) -> str:
        """The name that profiles use; `unknown` for a type that none is written for."""
        found = (name for name, gpu in GPU_TYPES.items() if re.search(gpu.product, self.product))
        return next(found, "unknown")

    def __str__(self) -> str:
        memory = f"{self.memory_mib} MiB" if self.memory_mib else "of untold memory"
        return f"GPU {self.index}: {self.product}, compute capability {self.sm / 10}, {memory}"


@dataclass(frozen=True)
class Hardware:
    """The GPUs found, and why there are none where there are none."""

    gpus: tuple[Gpu, ...]
    driver: str | None
    """Its version, where that is known."""
    note: str = ""


def has_driver() -> bool:
    """Whether the library of NVIDIA's driver can be loaded, without which PyTorch finds no GPU."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def detect_hardware() -> Hardware:
    """Asks `nvidia-smi`; a machine without it, or without a GPU, is a valid answer."""
    if shutil.which("nvidia-smi") is None:
        return Hardware((), None, "no NVIDIA driver here (nvidia-smi is not on PATH)")
    fields = "index,name,compute_cap,memory.total,memory.free,pci.bus_id,driver_version"
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=60,
            check=False,
        )
    except OSError as error:
        return Hardware((), None, f"nvidia-smi cannot be run: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Hardware((), None, "nvidia-smi did not answer within 60 s: the driver hangs")
    if answer.returncode:
        words = (answer.stdout + answer.stderr).strip().splitlines()
        return Hardware((), None, f"nvidia-smi failed: {words[-1] if words else answer.returncode}")
    rows = list(csv.reader(io.StringIO(answer.stdout), skipinitialspace=True))
    rows = [row for row in rows if len(row) == len(fields.split(","))]
    gpus = tuple(_gpu(row) for row in rows if row[0].isdecimal() and CAPABILITY.fullmatch(row[2]))
    driver = next((row[-1] for row in rows if re.match(r"\d+\.", row[-1])), None)
    what = f"only {', '.join(rows[0])}, which describes none" if rows else "no GPU"
    return Hardware(gpus, driver, "" if gpus else f"nvidia-smi lists {what}")


CAPABILITY = re.compile(r"\d+\.\d+")
"""What a GPU that has failed, or that its driver does not know, has not: then it is `[N/A]`."""


def _gpu(row: list[str]) -> Gpu:
    index, product, capability, total, free, bus, _ = row
    return Gpu(
        index=int(index),
        product=product,
        sm=round(float(capability) * 10),
        memory_mib=_number(total),
        free_mib=_number(free),
        bus=bus,
    )


def _number(text: str) -> int:
    """MiB; unified-memory boards report `[N/A]`."""
    return int(text) if text.isdecimal() else 0
