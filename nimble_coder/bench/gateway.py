"""The gateway against Triton's own `generate_stream` and a front written the usual way, on an engine stand-in.

    scripts/bench gateway [--streams 1 64 256] [--tokens-per-step 1 3] [--max-tokens 256] [--rounds 5]

The stand-in's rate is more than any front can pass on from many streams, so that their limits are what is measured. The
fronts take turns within every round, so that a machine whose speed drifts cannot favour one. CPU is that of the
front's own process; Triton's and the load generator's are shown beside it. Which targets were met is said at the end.
"""

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.profiles import find_profile
from nimble_coder.bench.arguments import positive_int
from nimble_coder.bench.cpu_time import session_cpu_seconds
from nimble_coder.bench.sse_load import LoadResult, load
from nimble_coder.bench.stand_in import stand_in_repository
from nimble_coder.contract.encoding import Generation
from nimble_coder.gateway.upstream.token_stream import TokenStreams
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.triton import Addresses, TritonServer
from nimble_coder.text.tokenizer import TextTokenizer

progress = Console(stderr=True)
PROMPT = "def total(items):\n    total = 0\n    "
HOST = "127.0.0.1"


@dataclass
class Front:
    """One way to the engine."""

    name: str
    port: int
    path: str
    body: dict[str, object]
    session: int
    """The process whose session's CPU counts as the front's."""


@dataclass
class Sample:
    """One run."""

    load: LoadResult
    tokens: int
    messages: int
    front_cpu: float
    triton_cpu: float


@dataclass
class Cell:
    """All runs of one front at one load."""

    samples: list[Sample] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Streams that failed."""
        return sum(sample.load.errors for sample in self.samples)

    @property
    def speed(self) -> float:
        return statistics.median(sample.tokens / sample.load.seconds for sample in self.samples)

    def per_message(self, value: Callable[[Sample], float]) -> float:
        """The median of a value per message of the engine."""
        return statistics.median(value(sample) / sample.messages for sample in self.samples)


Cells = dict[str, Cell]
"""By front."""


@dataclass
class Measured:
    """Everything about so many tokens per message."""

    by_streams: dict[int, Cells]
    added_first: float
    """Seconds that the gateway adds to a lone stream's first token."""


@dataclass(frozen=True)
class Target:
    """What the gateway has to reach."""

    what: str
    wanted: str
    found: str
    is_met: bool


@contextmanager
def fronts(artifact: Artifact, work: Path, args: argparse.Namespace) -> Iterator[tuple[list[Front], TritonServer]]:
    """Starts Triton with the stand-in, the gateway and the usual front; yields them and Triton."""
    repository = work / "model_repository"
    stand_in_repository(artifact, repository)
    many = {"NIMBLE_MAX_CONCURRENT_REQUESTS": "1024", "NIMBLE_LOG_LEVEL": "warning"}
    with TritonServer(repository, Addresses.free(), work / "triton.log") as triton:
        triton.wait_ready()
        listening = Addresses.free()
        with GatewayProcesses(
            artifact.directory, triton.addresses, listening, args.workers, work / "gateway.log", many
        ) as gateways:
            gateways.wait_ready()
            usual_addresses = Addresses.free()
            port = str(usual_addresses.http_port)
            command = [sys.executable, "-m", "nimble_coder.bench.usual_front", port, triton.addresses.grpc]
            usual = subprocess.Popen([*command, str(artifact.tokenizer)], start_new_session=True)
            try:
                time.sleep(4)
                n = args.max_tokens
                asked: dict[str, object] = {"prompt": PROMPT, "max_tokens": n, "stream": True}
                direct: dict[str, object] = {"text_input": PROMPT, "max_tokens": n, "stream": True}
                gateway = gateways.processes[0].pid
                generate = "/v2/models/ensemble/generate_stream"
                yield (
                    [
                        Front("gateway", listening.http_port, "/v1/completions", asked, gateway),
                        Front("ensemble", triton.addresses.http_port, generate, direct, triton.pid),
                        Front("usual", usual_addresses.http_port, "/v1/completions", asked, usual.pid),
                    ],
                    triton,
                )
            finally:
                usual.terminate()
                usual.wait()


def sample(front: Front, triton: int, streams: int, args: argparse.Namespace, per_step: int) -> Sample:
    """One run."""
    front_before, triton_before = session_cpu_seconds(front.session), session_cpu_seconds(triton)
    result = asyncio.run(load(HOST, front.port, front.path, front.body, streams))
    messages = streams * -(-args.max_tokens // per_step)
    front_cpu, triton_cpu = (
        session_cpu_seconds(front.session) - front_before,
        session_cpu_seconds(triton) - triton_before,
    )
    return Sample(result, streams * args.max_tokens, messages, front_cpu, triton_cpu)


def run(artifact: Artifact, per_step: int, args: argparse.Namespace) -> Measured:
    """All fronts at all loads with so many tokens per message."""
    os.environ["NIMBLE_BENCH_TOKENS_PER_STEP"] = str(per_step)
    os.environ["NIMBLE_BENCH_INTERVAL"] = str(args.interval)
    by_streams: dict[int, Cells] = {}
    with tempfile.TemporaryDirectory() as work, fronts(artifact, Path(work), args) as (found, triton):
        for streams in args.streams:
            cells = by_streams[streams] = {front.name: Cell() for front in found}
            rounds = args.rounds if streams <= 64 else min(args.rounds, 2)  # a crowd shows errors, and takes long
            turns = [found[i % len(found) :] + found[: i % len(found)] for i in range(rounds + 1)]
            for i, turn in enumerate(track(turns, f"{per_step} a message, {streams} streams", console=progress)):
                for front in turn:
                    taken = sample(front, triton.pid, streams, args, per_step)
                    if i or taken.load.errors:  # the first only warms up
                        cells[front.name].samples.append(taken)
        return Measured(by_streams, added_first(artifact, found[0], triton.addresses, 40))


def report(measured: Measured, per_step: int, args: argparse.Namespace) -> Table:
    """The measurements as a table."""
    table = Table(title=f"{per_step} tokens per message, {args.max_tokens} tokens per stream, medians of {args.rounds}")
    headings = ("streams", "front", "tokens/s", "x ensemble", "x usual", "TTFT p50 ms", "reads/message")
    for heading in (*headings, "front us/msg", "Triton us/msg", "load us/msg", "failed"):
        table.add_column(heading, justify="right")
    for streams, cells in measured.by_streams.items():
        for name, cell in cells.items():
            table.add_row(*row(streams, name, cell, cells))
    milliseconds = 1000 * measured.added_first
    table.caption = f"the gateway adds {milliseconds:.1f} ms to the first token of a lone stream (median of 40)"
    return table


def row(streams: int, name: str, cell: Cell, cells: Cells) -> list[str]:
    """A line of the table."""
    first = statistics.median(sample.load.median_first for sample in cell.samples)
    return [
        str(streams),
        name,
        f"{cell.speed:.0f}",
        f"{cell.speed / cells['ensemble'].speed:.2f}",
        f"{cell.speed / cells['usual'].speed:.2f}",
        f"{1000 * first:.1f}",
        f"{cell.per_message(lambda s: s.load.reads):.2f}",
        "" if name == "ensemble" else f"{1e6 * cell.per_message(lambda s: s.front_cpu):.0f}",
        f"{1e6 * cell.per_message(lambda s: s.triton_cpu):.0f}",
        f"{1e6 * cell.per_message(lambda s: s.load.cpu_seconds):.0f}",
        str(cell.errors),
    ]


def targets(measured: dict[int, Measured]) -> list[Target]:
    """What was wanted of the gateway, and what was found, as far as it was measured."""
    found: list[Target] = []
    for per_step, one in measured.items():
        said = f"{per_step} a message"
        if cells := one.by_streams.get(64):
            gateway = cells["gateway"]
            for other, least in (("ensemble", 1.0 if per_step == 1 else 1.3), ("usual", 1.5)):
                ratio = gateway.speed / cells[other].speed
                found.append(
                    Target(f"64 streams, {said}, over {other}", f">= {least}x", f"{ratio:.2f}x", ratio >= least)
                )
            cpu = 1e6 * gateway.per_message(lambda s: s.front_cpu)
            found.append(Target(f"64 streams, {said}, own CPU per message", "<= 100 us", f"{cpu:.0f} us", cpu <= 100))
        if cells := one.by_streams.get(256):
            errors = cells["gateway"].errors
            found.append(Target(f"256 streams, {said}, failed", "0", str(errors), not errors))
        added = 1000 * one.added_first
        found.append(Target(f"one stream, {said}, TTFT added, p50", "< 3 ms", f"{added:.1f} ms", added < 3))
    return found


def verdict(found: list[Target]) -> Table:
    """The targets as a table."""
    table = Table(title="targets")
    for heading in ("what", "wanted", "measured", ""):
        table.add_column(heading)
    for target in found:
        table.add_row(target.what, target.wanted, target.found, "met" if target.is_met else "[bold red]missed[/]")
    return table


def added_first(artifact: Artifact, front: Front, triton: Addresses, rounds: int) -> float:
    """Seconds that the gateway adds to a lone stream's first token: its median less that of Triton asked directly."""
    ids = tuple(TextTokenizer(artifact.tokenizer).encode(PROMPT))

    async def direct(streams: TokenStreams) -> float:
        started = time.perf_counter()
        async with aclosing(streams.generate(Generation(list(ids), 1, ()), "direct")) as steps:
            async for _ in steps:
                return time.perf_counter() - started
        raise RuntimeError("the stand-in gave no token")

    async def compare() -> float:
        streams = TokenStreams(triton.host, triton.grpc_port)
        body = {**front.body, "max_tokens": 1}
        pairs = []
        for _ in range(rounds):
            one = await load(HOST, front.port, front.path, body, 1)
            pairs.append((one.median_first, await direct(streams)))
        streams.close()
        return statistics.median([a for a, _ in pairs[1:]]) - statistics.median([b for _, b in pairs[1:]])

    return asyncio.run(compare())


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=positive_int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--tokens-per-step", type=positive_int, nargs="+", default=[1, 3])
    parser.add_argument("--max-tokens", type=positive_int, default=256)
    parser.add_argument("--rounds", type=positive_int, default=5)
    parser.add_argument("--interval", type=float, default=0.001, help="seconds between the steps of a stream")
    parser.add_argument(
        "--workers", type=positive_int, default=1, help="gateway processes (their CPU: the first one's only)"
    )
    args = parser.parse_args()
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as cache:
        artifact = build(find_profile("demo"), None, Cache(Path(cache)), lambda _: None)
        console.print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        measured: dict[int, Measured] = {}
        for per_step in args.tokens_per_step:
            measured[per_step] = run(artifact, per_step, args)
            console.print(report(measured[per_step], per_step, args))
        console.print(verdict(targets(measured)))


if __name__ == "__main__":
    main()
