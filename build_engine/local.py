"""A model on this machine that a person names by its path: a checkpoint's directory or a GGUF file."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from build_engine.checkpoint import Checkpoint, CheckpointError

if TYPE_CHECKING:
    from build_engine.gguf.model import GgufModel


EMBEDDED_MODEL = Path(__file__).parent / "embedded_model"
"""The checkpoint that is shipped with this package."""


def local_model(name: str | None) -> Path | None:
    """A model that is named by its absolute path, or by that of a GGUF file; None where it is named otherwise."""
    path = Path(name or "")
    return path if path.suffix == ".gguf" or path.is_absolute() else None


def is_gguf(source: Path) -> bool:
    """Whether a path that a person gave for a model is to be read as GGUF: what is there and no directory, or says so
    by its name."""
    return not os.path.isdir(source) and (os.path.lexists(source) or source.suffix == ".gguf")  # noqa: PTH112


def open_local(source: Path, else_named: str = "") -> "Checkpoint | GgufModel":
    """A checkpoint's directory or a GGUF file, checked; raises `CheckpointError`.

    `else_named` is what a command says of its other options where nothing is there.
    """
    if not os.path.lexists(source):  # which a name too long for any file does not make an error of
        raise CheckpointError(
            f"{source} does not exist: give the folder that holds config.json, or a GGUF file{else_named}"
        )
    if is_gguf(source):
        from build_engine.gguf.model import GgufModel  # noqa: PLC0415 - nothing else needs the package

        return GgufModel.open(source)
    return Checkpoint.open(source)
