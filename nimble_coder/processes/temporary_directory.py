"""The temporary directory, looked at before anything is started: Python takes another, and says nothing, where the one
that was asked for cannot be used.
"""

import os
import tempfile
from pathlib import Path

from build_engine.exit_codes import ExitCode
from build_engine.machine import unfit_for_triton

NAMED_BY = ("TMPDIR", "TEMP", "TMP")
"""In the order in which Python looks."""
TRITONS = Path("/tmp")  # noqa: S108 - its own name
"""Where Triton's Python backend (2.51, `pb_env.cc`) makes a directory, whatever those variables say."""
NEEDED = 8 << 20
"""Bytes: what a running service writes is 2 MB."""


class TemporaryDirectoryError(RuntimeError):
    """It cannot be used; says which it is, who names it, and why."""

    exit_code = ExitCode.MACHINE


def check_temporary_directory(tritons: Path = TRITONS) -> Path:
    """The directory, tried by writing, as is Triton's own; raises `TemporaryDirectoryError`."""
    variable = next(filter(os.environ.get, NAMED_BY), None)
    shown = f" {os.environ[variable]} ({variable})" if variable else ""
    try:
        place = Path(os.environ[variable]).absolute() if variable else Path(tempfile.gettempdir())
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(NEEDED))
    except OSError as error:
        raise TemporaryDirectoryError(
            f"the temporary directory{shown} cannot be used: {error.strerror}; it has to be a directory that can be "
            f"written, with {NEEDED >> 20} MB free"
        ) from None
    if unfit := unfit_for_triton(place):
        raise TemporaryDirectoryError(
            f"the temporary directory{shown} cannot be used: its path has {unfit}, and Triton's Python opens no such "
            f"file"
        )
    try:
        tempfile.TemporaryDirectory(dir=tritons).cleanup()
    except OSError as error:
        raise TemporaryDirectoryError(
            f"{tritons} cannot be used: {error.strerror}; Triton's Python backend makes a directory there, wherever "
            f"TMPDIR is: mount one that can be written, however small"
        ) from None
    return place
