"""Plain against lookahead decoding through the whole service, one request at a time, on the engine it would serve.

    nimble-coder bench [--rounds 3] [--max-tokens 128] [--lookahead 4,3,4]

The two take turns prompt by prompt, so that a machine whose speed drifts cannot favour one of them.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from build_engine.exit_codes import exit_code_of
from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.client.grpc import Completion, CompletionClient
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.stopping import stop_signals
from nimble_coder.processes.triton import Addresses
from nimble_coder.settings.loading import load
from nimble_coder.supervisor.choice import NoEngineError, choose

PROMPTS = ("stack_class", "fibonacci_variant", "argument_parser", "string_methods", "visitor")


@dataclass
class Comparison:
    """Completions of the same prompts, without lookahead and with it."""

    plain: list[Completion] = field(default_factory=list)
    fast: list[Completion] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """Medians, in one sentence."""
        before, after = (statistics.median(c.tokens_per_second for c in runs) for runs in (self.plain, self.fast))
        per_step = statistics.median(c.tokens_per_step for c in self.fast)
        return (
            f"plain {before:.0f} tokens/s, lookahead {after:.0f} tokens/s: {after / before:.2f}x, with "
            f"{per_step:.2f} tokens accepted per step (medians, through gRPC)"
        )


def compare(
    client: CompletionClient,
    lookahead: LookaheadConfig | None,
    console: Console,
    max_tokens: int = 128,
    rounds: int = 1,
) -> Comparison:
    """Runs every prompt plainly and with lookahead, the engine's own where None, and prints each speed."""
    prompts, found = coding_prompts(), Comparison()
    for name in PROMPTS * rounds:
        for results, config in ((found.plain, PLAIN), (found.fast, lookahead)):
            results.append(client.complete(prompts[name], max_tokens, config))
            kind = "plain decoding" if config == PLAIN else f"lookahead {config or ''}"
            console.print(f"    {name:18} {kind:18} {results[-1].tokens_per_second:5.0f} tokens/s", style="dim")
    return found


def main() -> None:
    """Serves the engine on free ports, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--lookahead", type=LookaheadConfig.parse, metavar="W,N,G", help="the engine's own by default")
    args = parser.parse_args()
    console = Console(highlight=False)
    try:
        settings = load().settings
        choice = choose(settings)
        if choice.artifact is None:
            raise NoEngineError(f"there is no engine of {choice.profile.name} yet: run build-engine first")
        with tempfile.TemporaryDirectory() as work, stop_signals():
            artifact, addresses, log = choice.artifact.directory, Addresses.free(), Path(work) / "log"
            with Serving(artifact, addresses, settings.engine_threads, settings.engine_device, log=log) as serving:
                serving.wait_ready(settings.startup_seconds)
                with CompletionClient(addresses.grpc) as client:
                    client.complete("import os\n", 8)
                    found = compare(client, args.lookahead, console, args.max_tokens, args.rounds)
        print(f"{choice.profile.name}, {len(PROMPTS)} prompts x {args.max_tokens} tokens x {args.rounds} rounds")
        print(found.summary)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(exit_code_of(error))


if __name__ == "__main__":
    main()
