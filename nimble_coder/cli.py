"""The command `nimble-coder`: one function a subcommand, errors shown once and without a traceback."""

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from build_engine.exit_codes import ExitCode
from build_engine.lookahead import PLAIN, LookaheadConfig, LookaheadError
from nimble_coder.commands import build, plan, service
from nimble_coder.commands.terminal import UsageError, console, fail, tell
from nimble_coder.processes.stopping import stop_signals

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(build.app)
app.add_typer(service.app)
app.add_typer(plan.app)


@app.callback()
def nimble_coder() -> None:
    """Code completion with lookahead decoding: build an engine, serve it, call it."""


@app.command()
def complete(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads standard input.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens to generate.")] = 128,
    lookahead: Annotated[str | None, typer.Option(metavar="W,N,G", help="(w,n,g) of this request.")] = None,
    no_lookahead: Annotated[bool, typer.Option("--no-lookahead", help="Plain decoding, the same as 1,1,0.")] = False,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the completion; may be repeated.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Speed and acceptance, on standard error.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Ask the prompt as a question, over HTTP.")] = False,
    suffix: Annotated[str | None, typer.Option(help="Fill in between the prompt and this text, over HTTP.")] = None,
    openai: Annotated[bool, typer.Option("--openai", help="Use the OpenAI API over HTTP instead of gRPC.")] = False,
    url: Annotated[str, typer.Option(envvar="NIMBLE_URL", help="host:port of the gRPC endpoint.")] = "127.0.0.1:8001",
    http_url: Annotated[
        str, typer.Option(envvar="NIMBLE_HTTP_URL", help="URL of the HTTP endpoint, https:// for TLS.")
    ] = "http://127.0.0.1:8000",
    tls: Annotated[bool, typer.Option("--tls", help="The gRPC endpoint has TLS.")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(envvar="NIMBLE_CA_FILE", help="PEM certificates to trust; the system's by default.")
    ] = None,
) -> None:
    """Complete a prompt, streaming to the terminal. The API key, where one is needed, is in NIMBLE_API_KEY."""
    from nimble_coder.client.grpc import CompletionClient, CompletionError
    from nimble_coder.client.http import HttpClient

    try:
        if no_lookahead and lookahead:
            raise UsageError("--lookahead and --no-lookahead exclude each other")
        if chat and suffix is not None:
            raise UsageError("--chat and --suffix exclude each other")
        config = PLAIN if no_lookahead else LookaheadConfig.parse(lookahead) if lookahead else None
        text = sys.stdin.read() if prompt == "-" else prompt
        stops = tuple(stop or ())
        api_key = os.environ.get("NIMBLE_API_KEY")
        if chat or openai or suffix is not None:
            service = HttpClient(http_url, api_key, ca_file)
            pieces = (
                service.chat(text, max_tokens, config, stops)
                if chat
                else service.complete(text, suffix, max_tokens, config, stops)
            )
            first, seconds = show(pieces)
            if stats:
                console.print(statistics(*service.counts, first, seconds), soft_wrap=True)
            return
        with (
            CompletionClient(url, api_key, tls, ca_file) as client,
            client.stream(text, max_tokens, config, stops) as stream,
        ):
            show(chunk.text for chunk in stream)
            if stats:
                done = stream.completion
                counts = len(done.token_ids), done.accepted_draft_tokens, done.draft_tokens
                console.print(statistics(*counts, done.time_to_first_token, done.seconds), soft_wrap=True)
    except (UsageError, LookaheadError, CompletionError) as error:
        fail(error)


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


def show(texts: Iterable[str]) -> tuple[float, float]:
    """Prints texts as they come, and a line's end behind them; returns the seconds to the first and to the last."""
    started = time.perf_counter()
    first = 0.0
    for text in texts:
        first = first or (time.perf_counter() - started if text else 0.0)
        print(text, end="", flush=True)
    print()
    return first, time.perf_counter() - started


def statistics(tokens: int, accepted: int, drafted: int, first: float, seconds: float) -> str:
    """What `complete --stats` tells, of `first` and all `seconds` from the request on."""
    from nimble_coder.client.grpc import tokens_per_step

    return (
        f"{tokens} tokens in {seconds:.2f} s, {tokens / seconds if seconds else 0:.0f} tokens/s, first after "
        f"{first * 1000:.0f} ms; {tokens_per_step(tokens, accepted):.2f} tokens per step, {accepted} drafts accepted "
        f"({accepted / drafted if drafted else 0:.0%})"
    )


def main() -> None:
    """The entry point; Ctrl-C and SIGTERM end with the shell's usual code and no traceback."""
    try:
        with stop_signals():
            app()
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:  # installed without an extra
        tell(f"{error}: this command needs pip install 'nimble-coder[serve]'; `complete` alone does without")
        sys.exit(ExitCode.OTHER)


if __name__ == "__main__":
    main()
