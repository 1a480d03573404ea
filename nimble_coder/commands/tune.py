"""The command `nimble-coder tune`: what its options mean, progress while it measures, and the table at the end."""

from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Printed

from build_engine.artifact import Artifact
from build_engine.cache import try_writing
from build_engine.catalog import CatalogError, find_model
from build_engine.hardware import GPU_TYPES
from build_engine.lookahead import PLAIN, LookaheadConfig, label
from build_engine.profiles import Profile
from nimble_coder.bench.coding_prompts import OWN, coding_prompts
from nimble_coder.bench.tuning import Plan, candidates_within, loads_up_to, tune
from nimble_coder.commands.terminal import console, say
from nimble_coder.gateway.policy import Level, PolicyError, policy_of, write_policy
from nimble_coder.planning.gpu import proposal
from nimble_coder.planning.screen import screened
from nimble_coder.processes.stopping import stop_signals


def run_tune(
    directory: Path,
    loads: str,
    configs: list[str],
    tokens: int,
    rounds: int,
    prompts: Path | None,
    output: Path | None,
    threads: int | None,
) -> None:
    """Measures, shows and writes; raises `PolicyError` for what cannot be measured or written to."""
    artifact = Artifact.open(directory)
    place = output or policy_of(directory)
    if place is None:
        raise PolicyError(f"{directory} is in no cache: say with --output where the policy is to be written")
    plan = plan_for(artifact, loads, configs, rounds)
    check_files(prompts or OWN, place)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with stop_signals(), Progress(*columns, console=console) as progress:
        task = progress.add_task("starting Triton", total=plan.measurements)

        def tick(text: str) -> None:
            progress.update(task, advance=1, description=text)
            if not console.is_terminal:
                say(text)  # a log has no bar

        table = tune(artifact, plan, tokens, threads, prompts or OWN, tick)
        progress.update(task, completed=plan.measurements)
    write_policy(place, table)
    console.print(as_printed(table.levels))
    if told := proposed(artifact.manifest.profile):
        console.print(told, soft_wrap=True)
    console.print(f"written to {place}; the gateway reads it when it starts", soft_wrap=True)


def check_files(prompts: Path, place: Path) -> None:
    """Raises `PolicyError` before an engine is started where it could not be asked, or its policy not be written."""
    try:
        texts = coding_prompts(prompts)
    except (OSError, ValueError) as error:
        raise PolicyError(f"the prompts in {prompts} cannot be read as UTF-8 texts: {error}") from None
    if not texts:
        raise PolicyError(f"{prompts} is no folder of .txt files: name another with --prompts")
    if empty := [name for name, text in texts.items() if not text]:
        raise PolicyError(f"{prompts / empty[0]}.txt is empty: write a prompt into it")
    try:
        try_writing(place.parent)
    except OSError as error:
        raise PolicyError(f"{place} cannot be written: {error.strerror}; name another with --output") from None
    if place.is_dir():
        raise PolicyError(f"{place} is a directory: name a file in it with --output")


def plan_for(artifact: Artifact, loads: str, configs: list[str], rounds: int) -> Plan:
    """Raises `PolicyError` or `LookaheadError` for loads and configurations that the engine cannot have."""
    profile = artifact.manifest.profile
    engine, most = profile.lookahead, profile.max_batch_size
    if profile.most_lookahead.is_plain:
        raise PolicyError("this engine was built without lookahead: there is nothing to choose")
    if engine.is_plain and not configs:
        raise PolicyError("this engine was built without lookahead of its own: say with --config what to try")
    try:
        chosen = sorted({int(part) for part in loads.split(",")}) if loads else loads_up_to(most)
    except ValueError:
        raise PolicyError(f"--loads {loads!r} is not a list of whole numbers such as 1,2,4") from None
    if not 1 <= chosen[0] <= chosen[-1] <= most:
        raise PolicyError(f"--loads {loads!r}: this engine runs 1 to {most} requests at once")
    asked = [LookaheadConfig.parse(text) for text in configs]
    for config in asked:
        config.check_within(profile.most_lookahead)
    usual = profile.usual
    if asked:
        return Plan(chosen, list(dict.fromkeys([PLAIN, *asked, usual])), usual, rounds)
    grid = candidates_within(engine)
    return Plan(chosen, list(dict.fromkeys([*grid, usual])), usual, rounds, screened(len(grid)))


def proposed(profile: Profile) -> str | None:
    """Which (W,N,G) to compile into an engine where that is fixed at the build, by the cost model; None for a portable
    engine, and for a model or a GPU that it does not know."""
    if profile.is_portable or profile.gpu not in GPU_TYPES:
        return None
    try:
        shape = find_model(profile.model).shape
    except CatalogError:
        return None
    told = proposal(GPU_TYPES[profile.gpu], shape, profile.tensor_parallel)
    return f"(W,N,G) to build, by requests at once: {told} (a model, not measured: docs/cost-model.md)"


def as_printed(levels: list[Level]) -> Printed:
    """The policy as a table."""
    printed = Printed(title="tokens per second, all requests together")
    for heading in ("at once", "plain", "engine's own", "best", "(w,n,g)", "x plain", "x engine's own"):
        printed.add_column(heading, justify="right")
    for level in levels:
        printed.add_row(
            str(level.load),
            f"{level.plain:.0f}",
            f"{level.engine:.0f}",
            f"{level.tokens_per_second:.0f}",
            label(level.config),
            f"{level.tokens_per_second / level.plain:.2f}",
            f"{level.tokens_per_second / level.engine:.2f}",
        )
    return printed
