"""Verification before publishing: does the engine generate with lookahead what it generates without, and faster?

The engine is run by the caller, through the same Triton and client code that serves it later; here is what is asked
of it and how the answers are judged.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from build_engine.exit_codes import ExitCode
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.profiles import Profile

TOKENS = 200
"""Generated per prompt: the crash of TensorRT-LLM 0.20.0 (issue #5451) does not come in the first steps."""
NEAR_TIES = 2
"""How often, per prompt, two candidates may be so close that 16 bits decide otherwise in a step of another size.

Nobody has measured this on a TensorRT engine yet (docs/gpu-checklist.md). The trained embedded model stays below it in
bf16; random weights, whose logits lie closer together, do not."""

PROMPTS = (
    "def quicksort(items: list[int]) -> list[int]:\n",
    "class LinkedList:\n    def __init__(self) -> None:\n        self.head = None\n\n    def append(self, value):\n",
    "import argparse\n\nparser = argparse.ArgumentParser()\nparser.add_argument(",
    "# Reads a CSV file and returns its rows as dictionaries.\ndef read_rows(path):\n",
    "for (int i = 0; i < n; i++) {\n    for (int j = 0; j < m; j++) {\n",
    "SELECT customer.name, SUM(orders.total) FROM customer JOIN orders ON ",
    "test('adds two numbers', () => {\n    expect(add(1, 2)).toBe(3);\n",
    'package main\n\nimport "fmt"\n\nfunc main() {\n\tfor i := 1; i <= 100; i++ {\n',
)
"""Eight at once, code of several languages."""


class VerificationError(RuntimeError):
    """The engine crashed, differs from plain decoding or is slower; carries what was measured."""

    exit_code = ExitCode.VERIFICATION


@dataclass(frozen=True)
class Verification:
    """What was measured; in the manifest."""

    requests: int
    tokens: int
    identical: int
    """Generations equal to plain decoding token by token; the others differ by near ties only."""
    near_ties: int
    plain_seconds: float
    lookahead_seconds: float
    tokens_per_step: float

    @property
    def speed_up(self) -> float:
        """Of the same work, all requests at once."""
        return self.plain_seconds / self.lookahead_seconds

    @property
    def is_slower(self) -> bool:
        return self.speed_up < 1

    def to_json(self) -> dict[str, Any]:
        """The manifest's `verification`."""
        status = "slower" if self.is_slower else "passed"
        return {"status": status, **asdict(self), "speed_up": round(self.speed_up, 3)}


SKIPPED: dict[str, Any] = {"status": "skipped", "reason": "the build did not run the engine (--skip-verify)"}


@dataclass(frozen=True)
class Batch:
    """The outputs of prompts that ran at once."""

    outputs: list[list[int]]
    seconds: float
    tokens_per_step: float


class Engine(Protocol):
    """A running engine, as the verification sees it."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""

    def generate(self, prompts: Sequence[list[int]], max_tokens: int, lookahead: LookaheadConfig | None) -> Batch:
        """Continues all prompts at once, greedily, each by exactly `max_tokens`; None leaves the engine its own
        configuration."""


Verifier = Callable[[Profile, Path], Verification]
"""Verifies the engine of a profile behind a model repository; raises `VerificationError`."""


def verify(engine: Engine, profile: Profile) -> Verification:
    """Judges a running engine; raises `VerificationError` where it must not be published."""
    prompts = [engine.encode(text) for text in PROMPTS]
    tokens = min(TOKENS, profile.max_seq_len - max(map(len, prompts)))
    reference = None if profile.lookahead.is_plain else PLAIN  # a plain engine takes no (w,n,g)
    for mode in (None, reference):
        engine.generate(prompts, tokens // 8, mode)  # the first run of each pays for allocations
    drafted = engine.generate(prompts, tokens, None)
    plain = engine.generate(prompts, tokens, reference)
    allowed = 0 if profile.precision == "fp32" else NEAR_TIES
    ties = [
        near_ties(engine, prompt, mine, theirs, reference, allowed)
        for prompt, mine, theirs in zip(prompts, drafted.outputs, plain.outputs, strict=True)
    ]
    result = Verification(
        requests=len(prompts),
        tokens=sum(map(len, drafted.outputs)),
        identical=ties.count(0),
        near_ties=sum(ties),
        plain_seconds=round(plain.seconds if reference else drafted.seconds, 4),  # nothing to be faster than
        lookahead_seconds=round(drafted.seconds, 4),
        tokens_per_step=round(drafted.tokens_per_step, 3),
    )
    # A torch engine is built on one machine and served on another, with any (w,n,g) or none: see `advice`.
    if result.is_slower and profile.engine == "tensorrt":
        raise VerificationError(
            f"{comparison(profile, result)}; build a smaller one (--lookahead 4,3,4), or a plain engine "
            f"(--lookahead 1,1,0)"
        )
    return result


def comparison(profile: Profile, result: Verification) -> str:
    """What is slower, and by how much."""
    return (
        f"lookahead {profile.lookahead} is slower than plain decoding here: {result.lookahead_seconds:.2f} s instead "
        f"of {result.plain_seconds:.2f} s for {result.requests} requests at once"
    )


def advice(profile: Profile, result: Verification) -> str:
    """What to do with a published engine that was slower, empty where it was not."""
    if not result.is_slower:
        return ""
    return (
        f"{comparison(profile, result)}. It is published, since another machine may be faster and every request may "
        f"ask for less; for this machine build a smaller one (--lookahead 4,3,4), or turn lookahead off in the "
        f"requests (--no-lookahead)"
    )


def near_ties(
    engine: Engine,
    prompt: list[int],
    output: list[int],
    expected: list[int],
    reference: LookaheadConfig | None,
    allowed: int,
) -> int:
    """How many near ties explain the difference between an output and what decoding with `reference` gives.

    Behind each token that differs, plain decoding starts anew from the output so far; a correct engine agrees with it
    from there on, a broken one does not. Raises `VerificationError` for more than `allowed`.
    """
    start = ties = 0
    while output[start:] != expected:
        pairs = zip(output[start:], expected, strict=False)
        agreed = next((i for i, (mine, theirs) in enumerate(pairs) if mine != theirs), None)
        ties += 1
        if agreed is None or ties > allowed:
            raise VerificationError(
                f"with lookahead the engine generates other tokens than without: token {start + (agreed or 0)} of "
                f"{len(output)} is the difference number {ties}, {allowed} are allowed; this engine must not be used, "
                f"build a plain one (--lookahead 1,1,0)"
            )
        start += agreed + 1
        if start == len(output):
            break
        expected = engine.generate([prompt + output[:start]], len(output) - start, reference).outputs[0]
    return ties
