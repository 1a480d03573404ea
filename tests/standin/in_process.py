"""The command `nimble-coder` in the process of the tests, which has imported long ago what the command imports for a
second; with an environment, an output and an exit code as a process of its own has them."""

import importlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest
from huggingface_hub import close_session, constants

from nimble_coder.cli import main


def call(directory: Path, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """Runs the command in a directory; what its children write is part of its output."""
    command = ["nimble-coder", *arguments]
    with (
        pytest.MonkeyPatch.context() as patch,
        diverted("stdout", 1) as output,
        diverted("stderr", 2) as errors,
        hub_of_the_environment(),
    ):
        patch.setattr(sys, "argv", command)
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        patch.chdir(directory)
        code = exit_code()
        return subprocess.CompletedProcess(command, code, written(output), written(errors))


def exit_code() -> int:
    try:
        main()
    except SystemExit as end:
        assert end.code is None or isinstance(end.code, int)
        return end.code or 0
    return 0


@contextmanager
def diverted(name: str, descriptor: int) -> Iterator[TextIO]:
    """A file that gets what this process and its children write to `sys.stdout` or `sys.stderr`."""
    kept = os.dup(descriptor)
    with tempfile.TemporaryFile("w+", buffering=1, encoding="utf-8") as file, pytest.MonkeyPatch.context() as patch:
        os.dup2(file.fileno(), descriptor)
        patch.setattr(sys, name, file)
        try:
            yield file
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)


def written(file: TextIO) -> str:
    file.seek(0)
    return file.read()


@contextmanager
def hub_of_the_environment() -> Iterator[None]:
    """The hub's library as the environment has it, which it reads when it is imported."""
    before = dict(vars(constants))
    importlib.reload(constants)
    try:
        yield
    finally:
        close_session()
        vars(constants).update(before)
