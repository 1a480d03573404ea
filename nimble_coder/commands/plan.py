"""`nimble-coder plan`: pods and GPUs for a load, by simulation from what one pod was measured to do."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nimble_coder.commands.terminal import Format, FormatOption, fail
from nimble_coder.planning.measured import Kind, PlanError, read_kinds
from nimble_coder.planning.simulation import MOST_PODS, fewest, outcome

app = typer.Typer()

LONGEST_ANSWERS = 12.5
"""How many of the longest answers a simulation lasts: with them a tenth of what is told of, its last four fifths, is
unfinished when it ends."""
MOST_REQUESTS = 10_000_000
"""Of a simulation, which keeps all of them in memory."""


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
        int | None, typer.Option(min=1, max=MOST_PODS, help="Tell of so many pods instead of finding the fewest.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, max=MOST_REQUESTS, help="To simulate.")] = 20000,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Simulate a load on several pods: how many are needed, and what users see. A simulation, not a measurement."""
    try:
        if (rate is None) == (developers is None):
            raise PlanError("name the load with --rate or with --developers, one of them")
        load = rate if rate is not None else (developers or 0) * per_minute / 60
        if not 0 < load < math.inf or min(developers or 0, per_minute) < 0:
            raise PlanError(f"the load is {load} requests a second: it must be above zero, and finite")
        if not (ttft > 0 and itl > 0):  # which a NaN is not either
            raise PlanError(f"the objectives are {ttft:g} s and {itl:g} s: both must be above zero")
        known = read_kinds(measured)
        kinds = [(known[name], weight) for name, weight in weights(mix, list(known)).items()]
        check_length(kinds, load, requests)
        if replicas:
            found = outcome(kinds, load, replicas, max_at_once, requests)
        elif (fitting := fewest(kinds, load, ttft, itl, max_at_once, requests)) is None:
            raise PlanError(f"not even {MOST_PODS} pods have a first token in {ttft:g} s and {itl:g} s between tokens")
        else:
            found = fitting
    except PlanError as error:
        fail(error)
    if output_format is Format.JSON:
        told = {name: value if math.isfinite(value) else None for name, value in asdict(found).items()}
        typer.echo(json.dumps({"rate": load, "gpus": found.pods * gpus, **told}))
        return
    typer.echo(f"{found.pods} pods, {found.pods * gpus} GPUs for {load:.2f} requests a second (simulated)")
    typer.echo(f"TTFT p50 {found.ttft_p50 * 1000:.0f} ms, p95 {found.ttft_p95 * 1000:.0f} ms")
    typer.echo(f"ITL  p50 {found.itl_p50 * 1000:.1f} ms, p95 {found.itl_p95 * 1000:.1f} ms")
    if not found.keeps_up:
        typer.echo(f"{found.finished:.0%} of the requests had ended: more come than so many pods do")


def check_length(kinds: list[tuple[Kind, float]], load: float, requests: int) -> None:
    """Raises `PlanError` where the requests have come before their answers can end, so that all of them look late."""
    longest = max(kind.seconds() for kind, _ in kinds)
    if (span := load * longest * LONGEST_ANSWERS) > MOST_REQUESTS:
        raise PlanError(
            f"answers of {longest:.2g} s at {load:.2g} requests a second are too many to simulate: plan for a part"
        )
    needed = math.ceil(span)
    if requests < needed:
        raise PlanError(
            f"{requests} requests are {requests / load:.2g} s of this load, too few for answers of {longest:.2g} s: "
            f"simulate more, with --requests {needed}"
        )


def weights(mix: str, known: list[str]) -> dict[str, float]:
    """By the kind's name; raises `PlanError` for one that was not measured."""
    if not mix:
        return dict.fromkeys(known, 1.0)
    found: dict[str, float] = {}
    for part in mix.split(","):
        name, _, weight = part.partition("=")
        if weight and not weight.replace(".", "", 1).isdecimal():
            raise PlanError(f"{weight!r} is no weight of {name}: give a number such as 3")
        if name not in known:
            raise PlanError(f"{name!r} was not measured: there is {', '.join(known)}")
        if name in found:
            raise PlanError(f"{name} has two weights: give one")
        found[name] = float(weight or 1)
        if not math.isfinite(found[name]):
            raise PlanError(f"{weight[:20]}... is no weight of {name}: give a number such as 3")
    if not any(found.values()):
        raise PlanError("all weights are 0: nothing is asked for")
    return {name: weight for name, weight in found.items() if weight}
