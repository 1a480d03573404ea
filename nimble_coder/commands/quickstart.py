"""The main job, shown: build a model, serve it with Triton, ask it, and measure.

`scripts/quickstart` runs this once its environment is there: with the embedded model, which needs nothing, or with a
real one (`--model qwen2.5-coder-0.5b-instruct`) from the hub or a directory.
"""

import argparse
import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.exit_codes import exit_code_of
from build_engine.hardware import Hardware
from build_engine.local import open_local
from build_engine.lookahead import SMALL
from build_engine.profiles import DEMO, EMBEDDED, Profile, find_profile
from build_engine.selection import profile_of, select_profile
from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.bench.served import PROMPTS, compare
from nimble_coder.client.grpc import CompletionClient
from nimble_coder.commands import tour
from nimble_coder.environment import env_names
from nimble_coder.processes.errors import PortTakenError
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.shared_memory import check_shared_memory
from nimble_coder.processes.stopping import stop_signals
from nimble_coder.processes.temporary_directory import check_temporary_directory
from nimble_coder.processes.triton import Addresses
from nimble_coder.settings.loading import load

SHOWN = "binary_search"
LOOKAHEAD = SMALL[0]
"""What suits a CPU; more drafts are for GPUs (docs/benchmarks.md)."""

NO_GPU = Hardware((), None, "the quickstart has the portable engine alone, for models up to 7B")
"""Which a GPU serves too."""

OPEN = {env_names(name)[0]: "" for name in ("api_keys", "api_keys_file", "tls_certificate", "tls_key", "tls_client_ca")}
"""It listens on loopback alone, and its own requests send no key and know no TLS."""

console = Console(highlight=False, emoji=False)


def say(text: str) -> None:
    console.print(f"[bold green]==>[/] {escape(text)}", soft_wrap=True)


def http_stream(addresses: Addresses, prompt: str, max_tokens: int) -> Iterator[str]:
    """Text deltas from Triton's own HTTP streaming of the ensemble."""
    body = json.dumps({"text_input": prompt, "max_tokens": max_tokens, "stream": True}).encode()
    request = urllib.request.Request(f"{addresses.http}/v2/models/ensemble/generate_stream", body)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])["text_output"]


def show(prompt: str, deltas: Iterator[str], suffix: str = "") -> None:
    console.print(prompt, end="", style="dim", markup=False, soft_wrap=True)
    for delta in deltas:
        console.print(delta, end="", markup=False, soft_wrap=True)
        sys.stdout.flush()
    console.print(suffix, style="dim", markup=False, soft_wrap=True)


def choose(model: str | None, source: Path | None) -> Profile:
    """The portable engine's profile of a model, of somebody's own checkpoint, or of the embedded model. Raises
    `CatalogError`, `ProfileError` or `CheckpointError`."""
    if model:
        return select_profile(NO_GPU, model)
    return (
        profile_of(open_local(source, "; a published model is named by --model"), NO_GPU)
        if source
        else find_profile(DEMO)
    )


def show_embedded(addresses: Addresses, client: CompletionClient) -> None:
    """One completion by each of two ways."""
    prompt = coding_prompts()[SHOWN]
    say("one completion over gRPC")
    show(prompt, (chunk.text for chunk in client.stream(prompt, 64, LOOKAHEAD)))
    say("one completion over HTTP")
    show(prompt, http_stream(addresses, prompt, 64))


def show_real(addresses: Addresses) -> None:
    """What the embedded model is too small for."""
    say(f"one chat: {tour.CHAT}")
    show("", tour.chat(addresses.http))
    say("one infill, between the dim lines")
    show(tour.PREFIX, tour.infill(addresses.http), tour.SUFFIX)
    say(f"one tool call: {tour.QUESTION}")
    show("", iter([tour.tool_call(addresses.http)]))


def demonstrate(artifact: Artifact, addresses: Addresses, once: bool) -> None:
    log = artifact.directory.parent.parent / "triton.log"
    log.unlink(missing_ok=True)
    is_real = artifact.manifest.profile.model != EMBEDDED
    say(f"starting Triton and the gateway on {addresses.http} (HTTP) and {addresses.grpc} (gRPC), log in {log}")
    with Serving(artifact.directory, addresses, log=log, settings=OPEN) as serving:
        say(f"ready after {serving.wait_ready(600):.1f} s")
        with CompletionClient(addresses.grpc) as client:
            if is_real:
                show_real(addresses)
            else:
                show_embedded(addresses, client)
            say(f"measuring {len(PROMPTS)} prompts with and without lookahead")
            say(compare(client, LOOKAHEAD, console, 48 if is_real else 128).summary)
        if not once:
            say(f"playground and OpenAI API: {addresses.http}, http://{addresses.host}:{addresses.http_port}/v1")
            say(f"try: .venv/bin/nimble-coder complete 'def fib(' --stats --url {addresses.grpc}")
            with suppress(KeyboardInterrupt):  # also one that comes before the waiting has begun
                say("serving until Ctrl-C")
                serving.wait()
        say("stopping")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a published model up to 7B, by name or hub id; downloaded where need be")
    parser.add_argument(
        "--from", dest="source", type=Path, help="its checkpoint's directory, or a GGUF file, instead of the hub"
    )
    parser.add_argument("--once", action="store_true", help="end after the measurement instead of serving on")
    parser.add_argument("--cache", type=Path, help="where engines are kept, instead of the one in the settings")
    parser.add_argument("--free-ports", action="store_true", help="any free ports instead of those in the settings")
    args = parser.parse_args()
    try:
        with stop_signals():
            loaded = load()
            for warning in loaded.warnings:
                say(warning)
            s = loaded.settings
            addresses = Addresses.free() if args.free_ports else Addresses(s.http_port, s.grpc_port, s.metrics_port)
            addresses.check_free()
            check_temporary_directory()
            check_shared_memory()
            cache = Cache(args.cache or s.cache_path)
            profile = choose(args.model, args.source)
            say(f"building engine and model repository of {profile.served_names[0]}")
            artifact = build(profile, args.source, cache, lambda t: console.print(f"    {escape(t)}", style="dim"))
            demonstrate(artifact, addresses, args.once)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, RuntimeError, OSError) as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        if isinstance(error, PortTakenError):
            say("any free ports: scripts/quickstart --free-ports")
        sys.exit(exit_code_of(error))


if __name__ == "__main__":
    main()
