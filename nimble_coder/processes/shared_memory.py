"""Shared memory, looked at before anything is started: Triton dies, and does not say why, where there is too little."""

import os
import tempfile
from pathlib import Path

from build_engine.exit_codes import ExitCode

PLACE = Path("/dev/shm")  # noqa: S108 - the kernel's name
NEEDED = 8 << 20
"""Bytes: each of Triton's four Python models takes one MiB to start, and more for large requests."""


class SharedMemoryError(RuntimeError):
    """It cannot be used; says why, and what to do."""

    exit_code = ExitCode.MACHINE


def check_shared_memory(place: Path = PLACE) -> None:
    """Takes what Triton needs, and gives it back; raises `SharedMemoryError`."""
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            os.posix_fallocate(file.fileno(), 0, NEEDED)
    except OSError as error:
        raise SharedMemoryError(
            f"shared memory ({place}) cannot be used: {error.strerror}; Triton and its models need {NEEDED >> 20} MB "
            f"of it free: docker run --shm-size 64m, or in Kubernetes an emptyDir with medium Memory at {place}"
        ) from None
