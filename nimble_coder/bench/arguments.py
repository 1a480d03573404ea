"""What the benchmarks' arguments may be, told before anything is measured: `type=` of their parsers."""

import argparse
import tempfile
from pathlib import Path

from build_engine.cache import try_writing
from build_engine.checkpoint import Checkpoint, CheckpointError
from nimble_coder.engine.cores import Cores
from nimble_coder.engine.torch_engine import choose_device


def positive_int(text: str) -> int:
    """Of rounds, tokens: no measurement has none of them."""
    if not natural(text):
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return int(text)


def thread_count(text: str) -> int:
    """Of a step on a CPU: the engine would take fewer than are asked for beyond the processors, and a step that is
    measured alone would fail."""
    if positive_int(text) > (most := Cores.here().affinity):
        raise argparse.ArgumentTypeError(f"{text} is more than the {most} processors that this process may run on")
    return int(text)


def natural(text: str) -> int:
    """Of what there may be none of."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, zero or more")
    return int(text)


def positive_float(text: str) -> float:
    """Of requests a second, and of seconds."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return found


def checkpoint_directory(text: str) -> Path:
    """The directory of one that is whole."""
    try:
        return Checkpoint.open(Path(text)).directory
    except CheckpointError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device`: `cpu` or `cuda`, which the service's own choice is where none is named."""
    parser.add_argument("--device", type=_device, choices=["auto", "cpu", "cuda"], default="auto")


def _device(text: str) -> str:
    """One that is here."""
    import torch  # noqa: PLC0415 - a service is measured without it

    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("PyTorch finds no GPU here: choose cpu")
    return choose_device(text)


def existing_file(text: str) -> Path:
    """One that is read after a while: weights, or what another benchmark wrote."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text} is no file")
    return Path(text)


def new_file(text: str) -> Path:
    """A file that can be written once everything is measured; nothing is left of trying that."""
    path = Path(text)
    try:
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {error.strerror}") from None
    return path


def new_directory(text: str) -> Path:
    """A directory that files can be written to, which is made where it is not there."""
    try:
        try_writing(Path(text))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {error.strerror}") from None
    return Path(text)
