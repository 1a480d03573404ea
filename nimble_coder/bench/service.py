"""Load on the service as people make it: chats, completions, infills and edits, as many at once as are asked for.

    nimble-coder bench                                         # the engine that would be served, on free ports
    nimble-coder bench --url http://127.0.0.1:8000 --concurrency 1 2 4 8
    nimble-coder bench --url grpc://127.0.0.1:8001 --scenarios chat --rate 2
    nimble-coder bench --artifact DIRECTORY --compare plain default --json run.json --plot figures

Each scenario sends `--requests` requests a round at each level, and `--warm-up` ones before it: no more. Every text is
another by a number, so that no request finds its prompt computed already. Two configurations that are compared take
turns round by round, and the ratio is told with its least and most.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from time import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from build_engine.exit_codes import exit_code_of
from nimble_coder.bench.arguments import natural, new_directory, new_file, positive_float, positive_int
from nimble_coder.bench.load.drafting import WAYS, Drafting
from nimble_coder.bench.load.plot import plot
from nimble_coder.bench.load.results import Level, Results
from nimble_coder.bench.load.scenarios import Prompt, Scenario, scenarios
from nimble_coder.bench.load.sending import Request, closed_loop, open_loop
from nimble_coder.bench.load.target import Sample, Target, target_of
from nimble_coder.client.grpc import CompletionError
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.stopping import stop_signals
from nimble_coder.processes.triton import Addresses
from nimble_coder.settings.loading import load
from nimble_coder.supervisor.choice import NoEngineError, choose


@dataclass(frozen=True)
class Plan:
    """What is sent in a run."""

    scenarios: list[Scenario]
    levels: list[Level]
    draftings: list[Drafting]
    requests: int
    rounds: int
    warm_up: int
    is_open: bool
    is_compared: bool
    """Whether the second of two draftings is told over the first."""
    max_tokens: int | None
    """Of every answer; the scenario's own where None."""

    @property
    def total(self) -> int:
        """Requests in all."""
        return len(self.scenarios) * (
            self.warm_up + len(self.levels) * len(self.draftings) * self.requests * self.rounds
        )

    def run(self, target: Target, progress: Progress) -> Results:
        """Sends it all. Raises `CompletionError` where a warm-up fails: then nothing would be measured."""
        names = [each.name for each in self.scenarios], [drafting.name for drafting in self.draftings]
        results = Results(names[0], self.levels, names[1], self.is_open, self.is_compared)
        numbers = count(int(time()))  # another run has other texts
        task = progress.add_task("", total=self.total)
        done = partial(progress.advance, task)
        for number in range(self.rounds):
            for scenario in self.scenarios:
                if not number:
                    progress.update(task, description=f"{scenario.name}, warming up")
                    self.warm(target, scenario, numbers, done)
                for level in self.levels:
                    for drafting in self.draftings[:: -1 if number % 2 else 1]:
                        progress.update(task, description=f"{scenario.name}, {level}, {drafting.name}")
                        prompts = scenario.take(self.requests, number)
                        requests = self.asked(target, scenario, drafting, prompts, numbers)
                        samples = self.send(requests, level, done)
                        results.add(scenario.name, level, drafting.name, samples)
        return results

    def send(self, requests: list[Request], level: Level, done: partial[None]) -> list[Sample]:
        """One go."""
        if self.is_open:
            return open_loop(requests, level, done=done)
        return closed_loop(requests, int(level), done)

    def warm(self, target: Target, scenario: Scenario, numbers: Iterator[int], done: partial[None]) -> None:
        """Requests that nobody counts; the first to fail ends the run."""
        for request in self.asked(target, scenario, self.draftings[0], scenario.take(self.warm_up), numbers):
            if error := request().error:
                raise CompletionError(error)
            done()

    def asked(
        self, target: Target, scenario: Scenario, drafting: Drafting, prompts: list[Prompt], numbers: Iterator[int]
    ) -> list[Request]:
        """Requests ready to be sent."""
        length = self.max_tokens or scenario.max_tokens
        return [partial(target.ask, prompt.numbered(next(numbers)), length, drafting) for prompt in prompts]


APART = {"NIMBLE_SHARE_DRAFTS": "false"}
"""Prompts come again, changed by a number alone: drafts from the earlier answers would be nearly the answers."""


@contextmanager
def served(artifact: Path | None) -> Iterator[str]:
    """The URL of a service of an artefact, or of what `nimble-coder serve` would serve; ends with the block."""
    settings = load().settings
    if artifact is None:
        choice = choose(settings)
        if choice.artifact is None:
            raise NoEngineError(f"there is no engine of {choice.profile.name} yet: run build-engine first")
        artifact = choice.artifact.directory
    with tempfile.TemporaryDirectory() as work:
        addresses, log = Addresses.free(), Path(work) / "log"
        with Serving(
            artifact, addresses, settings.engine_threads, settings.engine_device, log=log, settings=APART
        ) as serving:
            serving.wait_ready(settings.startup_seconds)
            yield addresses.http


def arguments() -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", help="of a running service: http://HOST:PORT, https:// or grpc://")
    where.add_argument(
        "--artifact", type=Path, help="a directory that build-engine printed, served while it is measured"
    )
    parser.add_argument("--ca-file", type=Path, help="certificates to trust; a key is taken from NIMBLE_API_KEY")
    parser.add_argument("--scenarios", nargs="+", choices=[*scenarios()], default=[*scenarios()], metavar="NAME")
    load_ = parser.add_mutually_exclusive_group()
    load_.add_argument(
        "--concurrency", type=positive_int, nargs="+", default=[1], help="requests at once, each in turn"
    )
    load_.add_argument("--rate", type=positive_float, nargs="+", help="requests a second instead, at random intervals")
    parser.add_argument("--requests", type=positive_int, default=12, help="of a scenario in a round, at each level")
    parser.add_argument("--rounds", type=positive_int, default=3)
    parser.add_argument("--warm-up", type=natural, default=2, help="requests before the first of a scenario")
    parser.add_argument("--max-tokens", type=positive_int, help="of an answer; each scenario has its own")
    how = parser.add_mutually_exclusive_group()
    usual = [Drafting.parse("default")]
    how.add_argument("--drafting", type=Drafting.parse, nargs="+", default=usual, help=f"{WAYS}, by turns")
    how.add_argument("--compare", type=Drafting.parse, nargs=2, metavar=("A", "B"), help="two of these, B over A")
    parser.add_argument("--json", type=new_file, help="a file for everything measured")
    parser.add_argument("--plot", type=new_directory, metavar="DIR", help="a directory for figures, SVG and PNG")
    args = parser.parse_args()
    draftings = args.compare or args.drafting
    if len({each.name for each in draftings}) < len(draftings):
        parser.error("two different configurations are compared, not one with itself")
    return args


def measure(url: str, args: argparse.Namespace, console: Console) -> Results:
    """Sends what the arguments ask for, and tells it."""
    known = scenarios()
    plan = Plan(
        [known[name] for name in dict.fromkeys(args.scenarios)],
        [*dict.fromkeys(args.rate or args.concurrency)],
        args.compare or args.drafting,
        args.requests,
        args.rounds,
        args.warm_up,
        args.rate is not None,
        args.compare is not None,
        args.max_tokens,
    )
    target = target_of(url, os.environ.get("NIMBLE_API_KEY"), args.ca_file)
    load_before = os.getloadavg()[0]
    console.print(f"{url}: {plan.total} requests, load average {load_before:.1f} before", soft_wrap=True, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        results = plan.run(target, progress)
    console.print(results.table(f"{plan.rounds} rounds x {plan.requests} requests; times in milliseconds"))
    if args.json:
        facts: dict[str, object] = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "url": url,
            "cpus": os.cpu_count(),
        }
        facts |= {"load_average_before": load_before, "requests": plan.total}
        args.json.write_text(json.dumps({**facts, "results": results.to_json()}, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        console.print("figures: " + ", ".join(map(str, plot(results, args.plot))), soft_wrap=True, markup=False)
    return results


def main() -> None:
    """Measures a service, which it starts where none is named."""
    args = arguments()
    console = Console(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else 200)
    try:
        with stop_signals():
            if args.url:
                results = measure(args.url, args, console)
            else:
                with served(args.artifact) as url:
                    results = measure(url, args, console)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(exit_code_of(error))
    except KeyboardInterrupt:
        sys.exit(130)
    failed = [sample for sample in results.samples if sample.error]
    if failed:
        print(f"error: {len(failed)} requests failed, the first with: {failed[0].error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
