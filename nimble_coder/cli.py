"""The command `nimble-coder`: one function a subcommand, errors shown once and without a traceback."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from build_engine.lookahead import PLAIN, LookaheadConfig, LookaheadError
from nimble_coder import build_commands
from nimble_coder.terminal import console, fail

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(build_commands.app)


@app.callback()
def nimble_coder() -> None:
    """Code completion with lookahead decoding: build an engine, serve it, call it."""


@app.command()
def serve(
    artifact: Annotated[Path, typer.Argument(help="An artefact's directory, as build-engine printed it.")],
    http_port: Annotated[int, typer.Option(envvar="NIMBLE_HTTP_PORT")] = 8000,
    grpc_port: Annotated[int, typer.Option(envvar="NIMBLE_GRPC_PORT")] = 8001,
    metrics_port: Annotated[int, typer.Option(envvar="NIMBLE_METRICS_PORT")] = 8002,
    threads: Annotated[int, typer.Option(envvar="NIMBLE_ENGINE_THREADS", help="PyTorch threads of the engine.")] = 1,
) -> None:
    """Serve an artefact with Triton on this machine's loopback until Ctrl-C or SIGTERM."""
    from build_engine.build import Artifact
    from nimble_coder.triton.server import Addresses, TritonServer
    from nimble_coder.triton.stopping import stop_signals

    try:
        opened = Artifact.open(artifact.absolute())
        opened.check_machine()
        addresses = Addresses(http_port, grpc_port, metrics_port)
        with stop_signals(), TritonServer(opened.repository, addresses, threads=threads) as server:
            seconds = server.wait_ready()
            console.print(f"ready after {seconds:.1f} s: HTTP {addresses.http}, gRPC {addresses.grpc}")
            code = server.wait()
    except (ValueError, RuntimeError, OSError) as error:
        fail(error)
    if code is not None:
        fail(RuntimeError(f"tritonserver ended with code {code}; its log is above"))


@app.command()
def complete(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads standard input.")],
    max_tokens: Annotated[int, typer.Option(help="The most tokens to generate.")] = 128,
    lookahead: Annotated[str | None, typer.Option(metavar="W,N,G", help="(w,n,g) of this request.")] = None,
    no_lookahead: Annotated[bool, typer.Option("--no-lookahead", help="Plain decoding, the same as 1,1,0.")] = False,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the completion; may be repeated.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Speed and acceptance, on standard error.")] = False,
    url: Annotated[str, typer.Option(envvar="NIMBLE_URL", help="host:port of the gRPC endpoint.")] = "127.0.0.1:8001",
) -> None:
    """Complete a prompt over gRPC, streaming to the terminal."""
    from nimble_coder.client import CompletionClient, CompletionError

    if no_lookahead and lookahead:
        fail(ValueError("--lookahead and --no-lookahead exclude each other"))
    try:
        config = PLAIN if no_lookahead else LookaheadConfig.parse(lookahead) if lookahead else None
        text = sys.stdin.read() if prompt == "-" else prompt
        with CompletionClient(url) as client, client.stream(text, max_tokens, config, tuple(stop or ())) as stream:
            for chunk in stream:
                print(chunk.text, end="", flush=True)
            print()
            if stats:
                done = stream.completion
                console.print(
                    f"{len(done.token_ids)} tokens in {done.seconds:.2f} s, {done.tokens_per_second:.0f} tokens/s, "
                    f"first after {done.time_to_first_token * 1000:.0f} ms; {done.tokens_per_step:.2f} tokens per "
                    f"step, {done.accepted_draft_tokens} drafts accepted ({done.acceptance_rate:.0%})",
                    soft_wrap=True,
                )
    except (LookaheadError, CompletionError) as error:
        fail(error)


def main() -> None:
    """The entry point; Ctrl-C ends with the shell's usual code and no traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
