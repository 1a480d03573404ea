"""The commands of the runtime stage: serve, and what looks after a service.

Each imports what it needs when it runs: a health check every few seconds must be cheap.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from build_engine.exit_codes import ExitCode, exit_code_of
from nimble_coder.commands.terminal import Format, FormatOption, fail
from nimble_coder.environment import CONFIG_FILE

if TYPE_CHECKING:
    from nimble_coder.processes.log import ProcessLog
    from nimble_coder.settings.loading import Loaded

app = typer.Typer()

ConfigOption = Annotated[Path | None, typer.Option("--config", envvar=CONFIG_FILE, help="YAML file with settings.")]
REST = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""For commands whose arguments are read by somebody else."""


@app.command(context_settings=REST, add_help_option=False)
def serve(context: typer.Context) -> None:
    """Serve an engine until Ctrl-C or SIGTERM; `serve --help` lists every setting, `--dry-run` shows their values."""
    from nimble_coder.processes.stopping import stop_signals

    with stop_signals():  # at once: as PID 1 it would not hear of them, and what is imported below takes a while
        from nimble_coder.settings.command_line import parse
        from nimble_coder.settings.loading import load
        from nimble_coder.supervisor.dry_run import report

        asked = parse(context.args)
        try:
            loaded = load(asked.options, file=asked.config)
            planned = report(loaded) if asked.dry_run else None
        except (ValueError, RuntimeError, OSError) as error:
            fail(error)
        if planned is None:
            raise typer.Exit(supervise(loaded))
        typer.echo(planned)


def supervise(loaded: "Loaded") -> int:
    """Runs the service; see `to_its_end`."""
    from nimble_coder.supervisor.supervisor import NAME, Supervisor

    return to_its_end(loaded, NAME, lambda log: Supervisor(loaded, log).run(), "stopped")


@app.command()
def prepare(
    download_only: Annotated[
        bool, typer.Option("--download-only", help="The checkpoint alone, for an air gap.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Fill the cache with what `serve` with these settings would build at its first start, and end."""
    from nimble_coder.processes.stopping import stop_signals

    with stop_signals():
        from nimble_coder.settings.loading import load
        from nimble_coder.supervisor import prepare as preparation

        try:
            loaded = load(file=config)
        except ValueError as error:
            fail(error)
        name = preparation.NAME
        code = to_its_end(
            loaded, name, lambda log: preparation.prepare(loaded, log, download_only), "the cache is filled"
        )
    raise typer.Exit(code)


def to_its_end(loaded: "Loaded", name: str, run: Callable[["ProcessLog"], None], last: str) -> int:
    """Runs it; the last line says why it ended, and the exit code says it to machines."""
    from nimble_coder.processes.log import ProcessLog

    log = ProcessLog(loaded.settings.jsonl_logging)
    for warning in loaded.warnings:
        log.say(name, warning, "warning")
    code, level = int(ExitCode.STOPPED), "info"
    try:
        run(log)
    except KeyboardInterrupt:
        code, last = int(ExitCode.INTERRUPTED), "interrupted"
    except (ValueError, RuntimeError, OSError) as error:
        code, last, level = exit_code_of(error), f"error: {error}", "error"
    log.close()
    log.say(name, last, level)
    return code


@app.command()
def health(
    ready: Annotated[bool, typer.Option("--ready", help="Whether it can answer, not only whether it lives.")] = False,
    config: ConfigOption = None,
) -> None:
    """Ask the service on this machine how it is, on the port that the settings say; exit code 0 or 1, one line."""
    from nimble_coder.commands.health import ask
    from nimble_coder.settings.loading import load

    try:
        addresses = load(file=config).settings.listening
    except ValueError as error:
        fail(error)
    is_well, said = ask(addresses, "ready" if ready else "live")
    typer.echo(said)
    raise typer.Exit(int(not is_well))


@app.command()
def version(
    check_container: Annotated[
        str | None, typer.Option(metavar="TAG", help="Refuse a Triton container that cannot run lookahead engines.")
    ] = None,
    allow_unproven: Annotated[bool, typer.Option("--allow-unproven", help="Accept a container nobody tried.")] = False,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Show the versions of everything that serves, or judge a container by its tag."""
    from build_engine.versions import IncompatibleError
    from build_engine.versions import check_container as judge
    from nimble_coder.commands.installed import installed_versions

    if check_container is not None:
        try:
            line = judge(check_container, allow_unproven)
        except IncompatibleError as error:
            fail(error)
        typer.echo(f"{check_container}: {line.verdict.value}: {line.reason}")
        return
    found = installed_versions()
    if output_format is Format.JSON:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, text in found.items():
        typer.echo(f"{name:<13} {text or 'not here'}")


@app.command()
def doctor(
    output_format: FormatOption = Format.TEXT,
    config: ConfigOption = None,
) -> None:
    """Examine this machine and what would be served; exit code 1 where something is wrong."""
    from nimble_coder.commands.doctor import examine, report
    from nimble_coder.settings.loading import load

    try:
        findings = examine(load(file=config))
    except ValueError as error:
        fail(error)
    typer.echo(report(findings, output_format))
    raise typer.Exit(int(any(finding.is_wrong for finding in findings)))


@app.command()
def tune(
    artifact: Annotated[Path, typer.Argument(help="An artefact's directory, as build-engine printed it.")],
    loads: Annotated[str, typer.Option(metavar="1,2,4", help="Requests at once; up to the engine's batch.")] = "",
    configs: Annotated[
        list[str] | None, typer.Option("--config", metavar="W,N,G", help="Try these only; may be repeated.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of each completion.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Times that the fastest are measured again.")] = 2,
    prompts: Annotated[
        Path | None, typer.Option(help="Folder of .txt files to complete; coding prompts by default.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where the policy is written; into the cache by default.")] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, envvar="NIMBLE_ENGINE_THREADS", help="Threads of the engine's step, as in serve."),
    ] = None,
) -> None:
    """Measure which (w,n,g) is fastest at which load, and write the policy that the gateway goes by."""
    from nimble_coder.commands.tune import run_tune

    try:
        run_tune(artifact.absolute(), loads, configs or [], tokens, rounds, prompts, output, threads)
    except (ValueError, RuntimeError, OSError) as error:
        fail(error)


@app.command(context_settings=REST, add_help_option=False)
def bench(context: typer.Context) -> None:
    """Measure: `bench` the engine that would be served, or `bench lookahead | gateway | step | portable`."""
    from nimble_coder.bench.command import run

    run(context.args)
