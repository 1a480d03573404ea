"""Plain against lookahead decoding through the whole service, one request at a time: what the quickstart shows.

The two take turns prompt by prompt, so that a machine whose speed drifts cannot favour one of them.
"""

import statistics
from dataclasses import dataclass, field

from rich.console import Console

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.client.grpc import Completion, CompletionClient

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
