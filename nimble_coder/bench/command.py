"""The command `nimble-coder bench`: which benchmark, and its own arguments."""

import runpy
import sys

import typer

DEFAULT = "service"
MEASURES = ("service", "lookahead", "gateway", "step", "portable")


def run(arguments: list[str]) -> None:
    """Runs a benchmark as `scripts/bench` does; without a name the one of the engine that would be served."""
    name = arguments[0] if arguments and not arguments[0].startswith("-") else DEFAULT
    if name not in MEASURES:
        typer.echo(f"error: there is no benchmark {name!r}: choose one of {', '.join(MEASURES)}", err=True)
        raise typer.Exit(2)
    rest = arguments[1:] if arguments[:1] == [name] else arguments
    sys.argv = [f"nimble-coder bench {name}", *rest]
    runpy.run_module(f"nimble_coder.bench.{name}", run_name="__main__")
