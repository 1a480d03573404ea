"""What every command shares: messages on standard error, and how a command fails."""

from enum import StrEnum
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from build_engine.exit_codes import ExitCode, exit_code_of

console = Console(stderr=True, highlight=False, emoji=False, markup=False)


class UsageError(ValueError):
    """Options that contradict each other, or one that means nothing here; says which."""

    exit_code = ExitCode.ASKED


class Format(StrEnum):
    """Of what a command prints: for people, or for scripts."""

    TEXT = "text"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="For people, or for scripts.")]


def say(text: str) -> None:
    """Progress, one line."""
    console.print(f"  {text}", style="dim", soft_wrap=True)


def tell(problem: str) -> None:
    """What went wrong, one line."""
    console.print(f"error: {problem}", style="red", soft_wrap=True)


def fail(error: Exception) -> NoReturn:
    """Ends the command with one line on standard error, and the exit code that the error's class names (`ExitCode`).

    Where nobody reads the output any more, as behind `| head -1`, nobody is told.
    """
    if isinstance(error, BrokenPipeError):
        raise error
    tell(str(error))
    raise typer.Exit(exit_code_of(error))
