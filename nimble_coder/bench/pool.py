"""What earlier requests are worth: one file is completed again and again, as an editor does, with a pool and without.

    scripts/bench pool --model CHECKPOINT [--session typing|changes|holes] [--files 6] [--requests 10] [--threads 2]

Each file is a part of a module of Python's standard library, of which some lines are missing. In a session of `typing`
the next word of each answer is typed at the cursor before it is asked again; of `changes`, a comment is written
somewhere else in the file; of `holes`, other lines are missing each time, and no request asks for what an earlier one
did. With a pool and without it they take turns; texts are equal, or it is an error in fp32. Time runs from a request's
first token to its last.
"""

import argparse
import inspect
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.lookahead import LookaheadConfig
from build_engine.precision import STEP_PRECISIONS
from nimble_coder.bench.arguments import positive_int, thread_count
from nimble_coder.bench.checkpoint_engine import add_model, checkpoint_engine
from nimble_coder.bench.ratio import Ratio
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import Generation, generate
from nimble_coder.engine.protocol import Engine
from nimble_coder.engine.torch_engine import TorchEngineOptions
from nimble_coder.text.tokenizer import TextTokenizer

MODULES = ("textwrap", "bisect", "heapq", "shlex", "fnmatch", "calendar", "configparser", "csv", "difflib", "string")
LINES, HOLE, BEFORE = 90, 6, 8
"""Of a file, of a hole in it, and before the first hole at least."""
WORD = re.compile(r"\s*(?:\w+|\W)")
"""What is typed of an answer before it is asked for again."""


@dataclass(frozen=True)
class File:
    """Lines of which some are missing."""

    before: list[str]
    behind: list[str]

    @classmethod
    def of(cls, module: str, hole: int) -> "File":
        """A part of a module without the `hole`-th of its holes."""
        source = inspect.getsource(__import__(module)).splitlines(keepends=True)
        lines = source[len(source) // 3 :][:LINES]
        start = BEFORE + hole * 37 % (len(lines) - HOLE - 2 * BEFORE)
        return cls(lines[:start], lines[start + HOLE :])

    def noted(self, count: int) -> "File":
        """With so many comments, each somewhere else."""
        before, behind = [*self.before], [*self.behind]
        for number in range(1, count + 1):
            part = (before, behind)[number % 2]
            place = number * 37 % len(part)
            part[place] = f"# Revision {number} of this part.\n{part[place]}"
        return File(before, behind)

    def prompt(self, typed: str = "") -> str:
        """In the model's infill format."""
        before, behind = "".join(self.before), "".join(self.behind)
        return f"<|fim_prefix|>{before}{typed}<|fim_suffix|>{behind}<|fim_middle|>"


SESSIONS: dict[str, Callable[[str, int, str], str]] = {
    "typing": lambda module, _, typed: File.of(module, 1).prompt(typed),
    "changes": lambda module, number, _: File.of(module, 1).noted(number).prompt(),
    "holes": lambda module, number, _: File.of(module, number).noted(number).prompt(),
}
"""The prompt of a file's request by its number and what has been typed of the answers so far."""


@dataclass(frozen=True)
class Pair:
    """One request, without a pool and with it."""

    without: Generation
    pooled: Generation

    @property
    def is_equal(self) -> bool:
        return self.without.token_ids == self.pooled.token_ids


def speed(run: Generation) -> float:
    """Tokens a second from the first one on."""
    return (len(run.token_ids) - 1) / run.decode_seconds


def measure(engine: Engine, tokenizer: TextTokenizer, module: str, args: argparse.Namespace) -> list[Pair]:
    """One file's requests in their order, in a pool of their own."""
    pairs, typed = list[Pair](), ""
    ends = [[i] for i in tokenizer.end_ids]
    for number in range(args.requests):
        ids = tokenizer.encode(SESSIONS[args.session](module, number, typed))
        runs = {
            pool: generate(engine, [Request(ids, args.max_tokens, stop_words=ends, draft_pool=pool)])[0]
            for pool in (("", module) if number % 2 else (module, ""))
        }
        pairs.append(Pair(runs[""], runs[module]))
        if word := WORD.match(tokenizer.decode(runs[""].token_ids)):
            typed += word.group()
    return pairs


def report(sessions: list[list[Pair]], title: str) -> Table:
    table = Table(title=title)
    headings = ("request", "tokens/step without", "with a pool", "speed-up", "least", "most", "over the first", "equal")
    for heading in headings:
        table.add_column(heading, justify="right")
    for number in range(len(sessions[0])):
        pairs = {i: found[number] for i, found in enumerate(sessions) if len(found[number].without.token_ids) > 1}
        if not pairs:
            continue
        ratios = [speed(pair.pooled) / speed(pair.without) for pair in pairs.values()]
        over_first = [speed(pair.pooled) / speed(sessions[i][0].pooled) for i, pair in pairs.items()]
        table.add_row(
            str(number + 1),
            f"{statistics.median(pair.without.tokens_per_step for pair in pairs.values()):.2f}",
            f"{statistics.median(pair.pooled.tokens_per_step for pair in pairs.values()):.2f}",
            *Ratio.of(ratios).cells,
            f"{statistics.median(over_first):.2f}x",
            f"{sum(pair.is_equal for pair in pairs.values())} of {len(pairs)}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--session", choices=SESSIONS, default="typing", help="what happens between two requests")
    parser.add_argument("--files", type=positive_int, default=6)
    parser.add_argument("--requests", type=positive_int, default=10, help="of each file")
    parser.add_argument("--max-tokens", type=positive_int, default=64)
    parser.add_argument("--precision", choices=STEP_PRECISIONS, default="bf16")
    parser.add_argument("--threads", type=thread_count, default=1, help="of a step on a CPU")
    args = parser.parse_args()
    tokenizer = TextTokenizer(args.model)
    options = TorchEngineOptions(threads=args.threads, device="cpu", tokenizer=args.model)
    with checkpoint_engine(args.model, args.precision, [LookaheadConfig(1, 4, 1)], options) as engine:
        generate(engine, [Request([1, 2, 3, 4, 5, 6, 7], 8)])  # the first use of code paths and slots
        files = track(MODULES[: args.files], "measuring", console=Console(stderr=True))
        sessions = [measure(engine, tokenizer, module, args) for module in files]
    title = f"{args.model.name}, {args.session}: one request at a time, medians over {len(sessions)} files"
    Console(width=110).print(report(sessions, title))


if __name__ == "__main__":
    main()
