"""`nimble-coder plan`: pods and GPUs for a load, by simulation from what one pod was measured to do."""

import json
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from nimble_coder.commands.terminal import Format, FormatOption, fail
from nimble_coder.planning.measured import PlanError, read_kinds
from nimble_coder.planning.simulation import fewest, outcome

app = typer.Typer()


@app.command()
def plan(
    measured: Annotated[Path, typer.Argument(help="What `bench --concurrency 1 2 4 8 --json FILE` wrote of one pod.")],
    rate: Annotated[float | None, typer.Option(help="Requests a second, of all users.")] = None,
    developers: Annotated[int | None, typer.Option(help="Instead: how many people.")] = None,
    per_minute: Annotated[float, typer.Option(help="Requests of one of them a minute, in the busiest hour.")] = 2.0,
    mix: Annotated[str, typer.Option(help="completion=3,chat=1: weights of what was measured; all alike.")] = "",
    ttft: Annotated[float, typer.Option(help="Objective for 95 of 100: seconds to the first token.")] = 1.0,
    itl: Annotated[float, typer.Option(help="Objective for 95 of 100: seconds between tokens.")] = 0.1,
    max_at_once: Annotated[int, typer.Option(min=1, help="Requests that the engine runs at once.")] = 64,
    gpus: Annotated[int, typer.Option(min=1, help="Of one pod.")] = 1,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Tell of so many pods instead of finding the fewest.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="To simulate.")] = 20000,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Simulate a load on several pods: how many are needed, and what users see. A simulation, not a measurement."""
    try:
        if (rate is None) == (developers is None):
            raise PlanError("name the load with --rate or with --developers, one of them")
        load = rate if rate is not None else (developers or 0) * per_minute / 60
        if not 0 < load < inf:
            raise PlanError(f"the load is {load} requests a second: it must be above zero, and finite")
        known = read_kinds(measured)
        kinds = [(known[name], weight) for name, weight in weights(mix, list(known)).items()]
        if replicas:
            found = outcome(kinds, load, replicas, max_at_once, requests)
        elif (fitting := fewest(kinds, load, ttft, itl, max_at_once, requests)) is None:
            raise PlanError(f"no number of pods has a first token in {ttft:g} s and {itl:g} s between tokens")
        else:
            found = fitting
    except PlanError as error:
        fail(error)
    if output_format is Format.JSON:
        typer.echo(json.dumps({"rate": load, "gpus": found.pods * gpus, **asdict(found)}))
        return
    typer.echo(f"{found.pods} pods, {found.pods * gpus} GPUs for {load:.2f} requests a second (simulated)")
    typer.echo(f"TTFT p50 {found.ttft_p50 * 1000:.0f} ms, p95 {found.ttft_p95 * 1000:.0f} ms")
    typer.echo(f"ITL  p50 {found.itl_p50 * 1000:.1f} ms, p95 {found.itl_p95 * 1000:.1f} ms")


def weights(mix: str, known: list[str]) -> dict[str, float]:
    """By the kind's name; raises `PlanError` for one that was not measured."""
    if not mix:
        return dict.fromkeys(known, 1.0)
    found = {}
    for part in mix.split(","):
        name, _, weight = part.partition("=")
        if weight and not weight.replace(".", "", 1).isdecimal():
            raise PlanError(f"{weight!r} is no weight of {name}: give a number such as 3")
        if name not in known:
            raise PlanError(f"{name!r} was not measured: there is {', '.join(known)}")
        found[name] = float(weight or 1)
    return found
