"""The command `nimble-coder` in the process of the tests, which has imported long ago what the command imports for a
second; with an environment, an output and an exit code as a process of its own has them."""

import ctypes
import importlib
import io
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest
from huggingface_hub import close_session, constants

from nimble_coder.cli import main
from nimble_coder.processes.children import PR_SET_CHILD_SUBREAPER


def call(
    directory: Path, *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Runs the command in a directory, with an environment where one is given; what its children write is part of its
    output."""
    command = ["nimble-coder", *arguments]
    with (
        pytest.MonkeyPatch.context() as patch,
        diverted("stdout", 1) as output,
        diverted("stderr", 2) as errors,
        process_as_it_was(),
    ):
        if environment is not None:
            replace_environment(patch, environment)
        patch.setattr(sys, "argv", command)
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        patch.chdir(directory)
        with hub_of_the_environment():
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


def replace_environment(patch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        patch.delenv(name)
    for name, value in environment.items():
        patch.setenv(name, value)


@contextmanager
def process_as_it_was() -> Iterator[None]:
    """`serve` takes more open files, and makes its process the parent of orphans."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


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
