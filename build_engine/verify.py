"""Verification before publishing: is the engine its checkpoint's, and what does lookahead change about its tokens?

Three questions. Do eight requests at once generate with lookahead what they generate without? Are those tokens the
checkpoint's own, as `build_engine.reference` computes them? And is a lone request, which lookahead is for, faster? The
engine is run by the caller, through the same Triton and client code that serves it later; here is what is asked of it
and how the answers are judged.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from math import isnan
from pathlib import Path
from typing import Any, Protocol

from build_engine.checkpoint import Checkpoint, CheckpointError
from build_engine.exit_codes import ExitCode
from build_engine.lookahead import PLAIN, LookaheadConfig, Mode
from build_engine.precision import Precision
from build_engine.profiles import Profile

TOKENS, PORTABLE_TOKENS = 200, 48
"""Generated per prompt: the crash of TensorRT-LLM 0.20.0 (issue #5451) does not come in the first steps; a portable
engine has no such fault, and on two cores some tens of tokens of 0.5B a second."""
ALONE, TURNS = 3, 2
"""Prompts that are also generated one after the other, for the speed, and how often: the fastest time of each counts,
since another process can only make it longer."""
COMPARED, PORTABLE_COMPARED = 64, 24
"""Tokens of each output that the checkpoint is asked about, which computes in fp32 on a CPU."""
SMALLER = (LookaheadConfig(4, 3, 4), LookaheadConfig(2, 3, 2), LookaheadConfig(1, 3, 1))
"""Tried where a TensorRT engine's own is slower than plain decoding."""


@dataclass(frozen=True)
class Limits:
    """What rounding may do to an engine of one precision."""

    near_ties: int
    """Tokens a prompt that lookahead may choose otherwise, each followed by agreement again: two candidates can be so
    close that a step of another size decides otherwise."""
    loss: float
    """By how many nats a token of the engine may be less likely than the checkpoint's own choice, on average."""


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(near_ties=0, loss=0.0005),
    "bf16": Limits(near_ties=2, loss=0.002),
    "fp16": Limits(near_ties=2, loss=0.002),
    "fp8": Limits(near_ties=2, loss=0.02),
    "int8": Limits(near_ties=2, loss=0.01),
    "int4": Limits(near_ties=2, loss=0.1),
}
"""Measured on portable engines of Qwen2.5-Coder-0.5B-Instruct: in bf16 the compiled step chooses each of 800 tokens as
the checkpoint does, and PyTorch's operators lose 0.0003 nats; a rotary base of 10000 instead of 1e6 loses 0.12. Keys
rounded to fp8 lose 0.0015 on `PROMPTS` and 0.019 on `OPEN_PROMPTS`, together 0.007, where 8 bits lose nothing and 4
bits 0.05 on the latter. Matrices and their inputs rounded to fp8 lose 0.006 on all, and 0.009 with the keys: beside
them the keys' loss does not show. Nobody has asked a TensorRT engine (docs/gpu-checklist.md)."""

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
OPEN_PROMPTS = (
    'COMMITS = ["9f86d081", "c4ca4238", "a87ff679", "',
    'PASSWORDS = ["kT9#vq2L", "zR4!mw8P", "',
    'KEY = "MIIEvQIBADANBgkqhkiG9w0BAQ',
    "The old man opened the door and saw",
)
"""What may go on in many ways: a model is sure of code, and chooses as before where a little of its numbers is lost.
The more alike its candidates are, the smaller a loss it takes to choose another."""


class VerificationError(RuntimeError):
    """The engine crashed, differs from plain decoding or is slower; carries what was measured."""

    exit_code = ExitCode.VERIFICATION


@dataclass(frozen=True)
class Speed:
    """Of the same work, with lookahead and without."""

    plain_seconds: float
    lookahead_seconds: float
    tokens_per_step: float

    @property
    def speed_up(self) -> float:
        return self.plain_seconds / self.lookahead_seconds

    def to_json(self) -> dict[str, float]:
        """Rounded, for the manifest."""
        return {name: round(value, 4) for name, value in {**asdict(self), "speed_up": self.speed_up}.items()}


@dataclass(frozen=True)
class Verification:
    """What was measured; in the manifest."""

    requests: int
    tokens: int
    identical: int
    """Generations equal to plain decoding token by token; the others differ by near ties only."""
    near_ties: int
    agreement: float
    """Share of the compared tokens that are the checkpoint's own choice."""
    loss: float
    """See `Limits.loss`."""
    alone: Speed
    """One request at a time; by this the engine is judged."""
    together: Speed
    """All requests at once."""
    fastest: Mode
    """For one request at a time: of the engine's usual way, plain decoding and, where that is faster, some smaller
    (w,n,g)."""
    gain: float
    """Its speed over plain decoding."""

    @property
    def is_slower(self) -> bool:
        return self.alone.speed_up < 1

    def to_json(self) -> dict[str, Any]:
        """The manifest's `verification`."""
        speeds = {"alone": self.alone.to_json(), "together": self.together.to_json()}
        fastest = {"fastest": self.fastest and astuple(self.fastest), "gain": round(self.gain, 3)}
        return {"status": "slower" if self.is_slower else "passed", **asdict(self), **speeds, **fastest}


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


class Reference(Protocol):
    """The checkpoint that an engine was made from."""

    def losses(self, generations: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
        """For each token of each output behind its prompt: by how many nats the checkpoint's own choice at that place
        is more likely, which is 0 for that choice."""


Progress = Callable[[str], None]
Verifier = Callable[[Profile, Path, Checkpoint, Progress], Verification]
"""Verifies the engine of a profile behind a model repository and says what it does; raises `VerificationError`."""


def verify(engine: Engine, profile: Profile, reference: Reference, progress: Progress) -> Verification:
    """Judges a running engine; raises `VerificationError` where it must not be published."""
    prompts = [engine.encode(text) for text in PROMPTS]
    wanted, compared = (TOKENS, COMPARED) if profile.engine == "tensorrt" else (PORTABLE_TOKENS, PORTABLE_COMPARED)
    tokens = min(wanted, profile.max_seq_len - max(map(len, prompts)))
    plainly = None if profile.lookahead.is_plain else PLAIN  # a plain engine takes no (w,n,g)
    for mode in (None, plainly):
        engine.generate(prompts, max(1, tokens // 8), mode)  # the first run of each pays for allocations
    progress(f"{len(prompts)} requests at once, {tokens} tokens each, with lookahead {profile.lookahead} and without")
    drafted = engine.generate(prompts, tokens, None)
    plain = engine.generate(prompts, tokens, plainly)
    limits = LIMITS[profile.precision]
    ties = [
        near_ties(engine, prompt, mine, theirs, plainly, limits.near_ties)
        for prompt, mine, theirs in zip(prompts, drafted.outputs, plain.outputs, strict=True)
    ]
    progress(f"asking the checkpoint about the first {compared} tokens of each")
    open_prompts = [engine.encode(text) for text in OPEN_PROMPTS]
    opened = engine.generate(open_prompts, min(compared, tokens), None)
    outputs = [output[:compared] for output in drafted.outputs] + opened.outputs
    losses = compare(reference, prompts + open_prompts, outputs, limits)
    alone, fastest = judge_alone(engine, profile, prompts[:ALONE], tokens, progress)
    result = Verification(
        requests=len(prompts),
        tokens=sum(map(len, drafted.outputs)),
        identical=ties.count(0),
        near_ties=sum(ties),
        agreement=round(losses.count(0) / len(losses), 4),
        loss=round(sum(losses) / len(losses), 6),
        alone=alone[profile.usual],
        together=speed(drafted, plain if plainly else drafted),  # a plain engine has nothing to be faster than
        fastest=fastest,
        gain=alone[fastest].speed_up,
    )
    # A portable engine drafts what is worth its rows: see `advice`.
    if result.is_slower and profile.engine == "tensorrt":
        raise VerificationError(f"{comparison(profile, result)}; build {instead(result)}")
    return result


def judge_alone(
    engine: Engine, profile: Profile, prompts: Sequence[list[int]], tokens: int, progress: Progress
) -> tuple[dict[Mode, Speed], Mode]:
    """The speed of one request at a time as the engine usually decodes, and where plain decoding is faster under
    smaller (w,n,g); and which is the fastest."""
    own, usual = profile.lookahead, profile.usual
    prompts = lengthen(prompts, own.ngram_size - 1)
    way = "drafts by matching suffixes" if usual is None else str(usual)
    progress(f"one request at a time, {way}" + ("" if own.is_plain else " and plain decoding by turns"))
    speeds = turns(engine, prompts, tokens, [] if own.is_plain else [usual])
    if usual is not None and speeds[usual].speed_up < 1:
        smaller = sorted({config.limited_to(own) for config in SMALLER} - {own}, key=astuple)
        progress(f"it is slower than plain decoding: trying {', '.join(map(str, smaller))}")
        speeds |= turns(engine, prompts, tokens, smaller)
    return speeds, max(speeds, key=lambda config: speeds[config].speed_up)


def lengthen(prompts: Sequence[list[int]], least: int) -> list[list[int]]:
    """The prompts, each of at least so many tokens, which a request for a (w,n,g) must have: with others before it."""
    before = [token for prompt in prompts for token in prompt] * least
    return [prompt if len(prompt) >= least else [*before, *prompt][-least:] for prompt in prompts]


def turns(engine: Engine, prompts: Sequence[list[int]], tokens: int, configs: Sequence[Mode]) -> dict[Mode, Speed]:
    """The prompts as requests that do not meet, plainly and in each way, which take turns prompt by prompt."""
    modes: list[Mode] = [PLAIN, *configs] if configs else [None]  # a plain engine takes no (w,n,g)
    runs = {
        (mode, i): [engine.generate([prompt], tokens, mode) for _ in range(TURNS)]
        for i, prompt in enumerate(prompts)
        for mode in modes
    }

    def batch(mode: Mode) -> Batch:
        best = [min(runs[mode, i], key=lambda run: run.seconds) for i in range(len(prompts))]
        steps = sum(1 / each.tokens_per_step for each in best)
        return Batch([each.outputs[0] for each in best], sum(each.seconds for each in best), len(best) / steps)

    plain = batch(modes[0])
    return {config: speed(batch(config), plain) for config in configs} | {PLAIN: speed(plain, plain)}


def speed(drafted: Batch, plain: Batch) -> Speed:
    """Of the same prompts, generated with lookahead and without."""
    return Speed(plain.seconds, drafted.seconds, drafted.tokens_per_step)


def verify_companion(engine: Engine, profile: Profile, reference: Reference, progress: Progress) -> None:
    """Judges the plain engine beside one with lookahead; raises `VerificationError` where it must not be published."""
    prompts = [engine.encode(text) for text in PROMPTS + OPEN_PROMPTS]
    progress(f"asking the checkpoint about {COMPARED} tokens of the companion")
    compare(reference, prompts, engine.generate(prompts, COMPARED, None).outputs, LIMITS[profile.precision])


def compare(
    reference: Reference, prompts: Sequence[list[int]], outputs: Sequence[list[int]], limits: Limits
) -> list[float]:
    """The losses of the compared tokens; raises `VerificationError` where they are more than rounding explains, and
    `CheckpointError` where the checkpoint has none."""
    generations = list(zip(prompts, outputs, strict=True))
    losses = [loss for output in reference.losses(generations) for loss in output]
    mean = sum(losses) / len(losses)
    if isnan(mean):
        raise CheckpointError(
            "the checkpoint itself computes what is no number: a weight is damaged (not a number, or infinite), or the "
            "training has failed; download or save it again"
        )
    if not mean <= limits.loss:
        raise VerificationError(
            f"the engine does not compute what its checkpoint does: {losses.count(0)} of {len(losses)} tokens are the "
            f"checkpoint's own choice, and on average the engine's is {mean:.4f} nats less likely, {limits.loss} are "
            f"allowed; this engine must not be used, build one of another precision, and report it with the log"
        )
    return losses


def comparison(profile: Profile, result: Verification) -> str:
    """What is slower, and by how much."""
    way = f"lookahead {profile.lookahead}" if profile.usual else "drafting by matching suffixes"
    return (
        f"{way} is slower than plain decoding here: {result.alone.lookahead_seconds:.2f} s "
        f"instead of {result.alone.plain_seconds:.2f} s for {ALONE} requests one after the other"
    )


def instead(result: Verification) -> str:
    """What was fastest, as something to build; of what was measured only."""
    if result.fastest is None or result.fastest.is_plain:
        return "a plain engine (--lookahead 1,1,0): of what was tried nothing is faster"
    asked = ",".join(map(str, astuple(result.fastest)))
    return f"it for {result.fastest} (--lookahead {asked}), {result.gain:.2f}x the speed of plain decoding"


def advice(profile: Profile, result: Verification) -> str:
    """What a published engine that was slower does instead, empty where it was not."""
    if not result.is_slower:
        return ""
    found = 'a request with "draft_tokens": 0 is decoded plainly, "draft_tokens" is in docs/tuning.md'
    return f"{comparison(profile, result)}; {found}. `nimble-coder tune` measures more, and other loads"


def near_ties(
    engine: Engine,
    prompt: list[int],
    output: list[int],
    expected: list[int],
    plainly: LookaheadConfig | None,
    allowed: int,
) -> int:
    """How many near ties explain the difference between an output and what decoding with `plainly` gives.

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
        expected = engine.generate([prompt + output[:start]], len(output) - start, plainly).outputs[0]
    return ties
