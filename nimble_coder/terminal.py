"""What every command shares: messages on standard error, and how a command fails."""

from typing import NoReturn

import typer
from rich.console import Console

console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Progress, one line."""
    console.print(f"  {text}", style="dim", soft_wrap=True, markup=False)


def fail(error: Exception) -> NoReturn:
    """Ends the command with one line on standard error, and the exit code that the error's class names.

    2 what was asked for, 3 this machine, 4 the checkpoint, 5 the engine's build, 6 its verification, 7 the cache's file
    system, 8 an artefact; 1 anything else.
    """
    console.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
    raise typer.Exit(getattr(error, "exit_code", 1))
