"""The command `nimble-coder complete`: one request, and its text as it comes."""

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from build_engine.lookahead import PLAIN, LookaheadConfig, LookaheadError
from nimble_coder.commands.terminal import UsageError, console, fail

app = typer.Typer()

MOST_TOKENS = 2**31 - 1
"""What Triton's number of 32 bits holds."""


@app.command()
def complete(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads standard input.")],
    max_tokens: Annotated[int, typer.Option(min=1, max=MOST_TOKENS, help="The most tokens to generate.")] = 128,
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
    from nimble_coder.client.grpc import CompletionClient, CompletionError  # noqa: PLC0415 - for this command alone
    from nimble_coder.client.http import HttpClient  # noqa: PLC0415

    try:
        if no_lookahead and lookahead is not None:
            raise UsageError("--lookahead and --no-lookahead exclude each other")
        if chat and suffix is not None:
            raise UsageError("--chat and --suffix exclude each other")
        is_over_http = chat or openai or suffix is not None
        check_heard(context, is_over_http)
        config = PLAIN if no_lookahead else None if lookahead is None else LookaheadConfig.parse(lookahead)
        text = standard_input() if prompt == "-" else prompt
        stops = tuple(stop or ())
        api_key = own_key()
        if is_over_http:
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


def check_heard(context: typer.Context, is_over_http: bool) -> None:
    """Raises `UsageError` for the address of the endpoint that is not asked, where it is an option."""
    other = ("url", "tls") if is_over_http else ("http_url",)
    for name in other:
        origin = context.get_parameter_source(name)
        if origin is not None and origin.name == "COMMANDLINE":
            which = "gRPC, and this is asked over HTTP" if is_over_http else "HTTP: add --openai, --chat or --suffix"
            raise UsageError(f"--{name.replace('_', '-')} is for {which}")


def standard_input() -> str:
    """All of it; raises `UsageError` where it is no text."""
    if sys.stdin is None:
        raise UsageError("the prompt is to be read from standard input, which is closed")
    try:
        text = sys.stdin.read()
        text.encode()  # bytes that are none pass as halves of letters where there is no locale
        return text
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise UsageError(f"standard input is no UTF-8 text: {error.reason}") from None
    except OSError as error:
        raise UsageError(f"standard input cannot be read: {error.strerror}") from None


def own_key() -> str | None:
    """The client's key; raises `UsageError` for one that no header can carry, without showing it."""
    key = os.environ.get("NIMBLE_API_KEY") or None
    if key and not (key.isascii() and key.isprintable()):
        raise UsageError("NIMBLE_API_KEY has letters that no key has, such as the end of a line: copy it again")
    return key


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
    from nimble_coder.client.grpc import tokens_per_step  # noqa: PLC0415

    return (
        f"{tokens} tokens in {seconds:.2f} s, {tokens / seconds if seconds else 0:.0f} tokens/s, first after "
        f"{first * 1000:.0f} ms; {tokens_per_step(tokens, accepted):.2f} tokens per step, {accepted} drafts accepted "
        f"({accepted / drafted if drafted else 0:.0%})"
    )
