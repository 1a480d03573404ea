"""The main job, shown: build the embedded model, serve it with Triton, complete over gRPC and HTTP, and measure.

`scripts/quickstart` runs this once its environment is there.
"""

import argparse
import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from build_engine.build import Artifact, build
from build_engine.cache import Cache
from build_engine.profiles import find_profile
from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.bench.served import PROMPTS, compare
from nimble_coder.client import CompletionClient
from nimble_coder.policy import PORTABLE
from nimble_coder.serving import Serving
from nimble_coder.triton.server import Addresses
from nimble_coder.triton.stopping import stop_signals

SHOWN = "binary_search"
LOOKAHEAD = PORTABLE[0][1]
"""What the gateway gives a lone request; more drafts are for GPUs (docs/benchmarks.md)."""

console = Console(highlight=False)


def say(text: str) -> None:
    console.print(f"[bold green]==>[/] {text}", soft_wrap=True)


def http_stream(addresses: Addresses, prompt: str, max_tokens: int) -> Iterator[str]:
    """Text deltas from Triton's own HTTP streaming of the ensemble."""
    body = json.dumps({"text_input": prompt, "max_tokens": max_tokens, "stream": True}).encode()
    request = urllib.request.Request(f"{addresses.http}/v2/models/ensemble/generate_stream", body)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])["text_output"]


def show(prompt: str, deltas: Iterator[str]) -> None:
    console.print(prompt, end="", style="dim", markup=False, soft_wrap=True)
    for delta in deltas:
        console.print(delta, end="", markup=False, soft_wrap=True)
        sys.stdout.flush()
    console.print()


def demonstrate(artifact: Artifact, addresses: Addresses, once: bool) -> None:
    log = artifact.directory.parent.parent / "triton.log"
    log.unlink(missing_ok=True)
    say(f"starting Triton and the gateway on {addresses.http} (HTTP) and {addresses.grpc} (gRPC), log in {log}")
    with Serving(artifact.directory, addresses, log=log) as serving:
        say(f"ready after {serving.wait_ready():.1f} s")
        prompt = coding_prompts()[SHOWN]
        with CompletionClient(addresses.grpc) as client:
            say("one completion over gRPC")
            show(prompt, (chunk.text for chunk in client.stream(prompt, 64, LOOKAHEAD)))
            say("one completion over HTTP")
            show(prompt, http_stream(addresses, prompt, 64))
            say(f"measuring {len(PROMPTS)} prompts with and without lookahead")
            say(compare(client, LOOKAHEAD, console).summary)
        if not once:
            say(f"playground and OpenAI API: {addresses.http}, http://{addresses.host}:{addresses.http_port}/v1")
            say(f"try: .venv/bin/nimble-coder complete 'def fib(' --stats --url {addresses.grpc}")
            with suppress(KeyboardInterrupt):  # also one that comes before the waiting has begun
                say("serving until Ctrl-C")
                serving.wait()
        say("stopping")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="end after the measurement instead of serving on")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/nimble-coder"))
    parser.add_argument("--free-ports", action="store_true", help="any free ports instead of 8000, 8001 and 8002")
    args = parser.parse_args()
    try:
        with stop_signals():
            say("building the embedded model's engine and model repository")
            artifact = build(
                find_profile("demo"), None, Cache(args.cache), lambda t: console.print(f"    {t}", style="dim")
            )
            addresses = Addresses.free() if args.free_ports else Addresses()
            demonstrate(artifact, addresses, args.once)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, RuntimeError, OSError) as error:
        console.print(f"[bold red]error:[/] {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
