"""All commands under one name, and what holds for the arguments of each."""

import re
import sys
from collections.abc import Sequence
from itertools import pairwise

import typer

from nimble_coder.commands import build, complete, plan, service
from nimble_coder.commands.terminal import UsageError, tell

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for part in (build, service, complete, plan):
    app.add_typer(part.app)

WITH_EMPTY_TEXTS = ("bench", "complete", "serve")
"""Commands to which an empty text may mean something."""
EMPTY_OPTION = re.compile(r"--[a-z0-9-]+=")


@app.callback()
def nimble_coder() -> None:
    """Code completion with lookahead decoding: build an engine, serve it, call it."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command that this process was asked for by its arguments, and ends the process with its exit code."""
    try:
        check_arguments(arguments)
    except UsageError as error:
        tell(str(error))
        sys.exit(error.exit_code)
    app()


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises `UsageError` for what is no text, and for what is empty.

    A variable that is not set leaves `--cache ""` behind, which would be the directory one stands in.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageError(f"an argument is no UTF-8 text: {argument!a:.80}") from None
    if arguments and arguments[0] in WITH_EMPTY_TEXTS:
        return
    for before, argument in pairwise(["", *arguments]):
        if not argument or EMPTY_OPTION.fullmatch(argument):
            name = argument.removesuffix("=") or (before if before.startswith("-") else "an argument")
            raise UsageError(f"{name} is empty: give a value, or leave it out")
