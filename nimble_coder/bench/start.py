"""How soon a service is ready, and what memory its engine has then and after some requests.

    scripts/bench start ARTEFACT [--starts 5] [--requests 4]

`nimble-coder serve ARTEFACT` is started again and again on free ports, and its time runs from the command to its line
"ready after". The engine's memory is the resident memory of its process, with the weights' file that it maps, over the
size of that file; the memory of all processes counts what they share once. `NIMBLE_*` settings hold as for `serve`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice, zip_longest
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.artifact import ENGINE_MODEL, Artifact
from build_engine.manifest import ManifestError
from nimble_coder.bench.arguments import natural, positive_int
from nimble_coder.bench.load.drafting import Drafting
from nimble_coder.bench.load.scenarios import Prompt, scenarios
from nimble_coder.bench.load.target import HttpTarget
from nimble_coder.processes.children import command_of, descendants
from nimble_coder.processes.stubs import is_stub
from nimble_coder.processes.triton import Addresses

READY = b"ready after"
LOOK_SECONDS = 0.02
TOKENS = 64
"""Of every answer."""


@dataclass(frozen=True)
class Memory:
    """In bytes."""

    engine: int
    everything: int
    """Of all processes, shared memory counted once."""

    @classmethod
    def of(cls, service: int) -> "Memory":
        """Of a running service; raises `RuntimeError` where no engine of ours runs in it."""
        pids = [service, *descendants(service)]
        engines = [pid for pid in pids if is_engine(command_of(pid))]
        if not engines:
            raise RuntimeError("no portable engine runs in this service")
        everything = sum(kilobytes(pid, "smaps_rollup", "Pss") for pid in pids)
        return cls(1024 * kilobytes(engines[0], "status", "VmRSS"), 1024 * everything)


def is_engine(command: Sequence[str]) -> bool:
    """Whether Triton has started it for the model that generates."""
    return is_stub(command) and f"/{ENGINE_MODEL}/" in command[1]


def kilobytes(pid: int, file: str, name: str) -> int:
    """A line of a process's file in /proc; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


@dataclass(frozen=True)
class Start:
    """What one start has shown."""

    seconds: float
    ready: Memory
    later: Memory
    """After the requests."""


@contextmanager
def serving(artifact: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str, float]]:
    """A service that is ready, its URL, and the seconds that took; raises `RuntimeError` with its last line."""
    addresses = Addresses.free()
    ports = {"HTTP": addresses.http_port, "GRPC": addresses.grpc_port, "METRICS": addresses.metrics_port}
    environment = {**os.environ, **{f"NIMBLE_{name}_PORT": str(port) for name, port in ports.items()}}
    command = [sys.executable, "-m", "nimble_coder.cli", "serve", str(artifact)]
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        try:
            while READY not in (said := said_in(log)):
                if process.poll() is not None:
                    lines = said.decode(errors="replace").split("\n")
                    raise RuntimeError(next((line for line in reversed(lines) if line), "the service has ended"))
                time.sleep(LOOK_SECONDS)
            yield process, addresses.http, time.perf_counter() - started
        finally:
            process.terminate()
            process.wait()


def said_in(log: IO[bytes]) -> bytes:
    """All that a process has written so far, whose place in the file is left alone."""
    return os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0)


def prompts(how_many: int) -> list[Prompt]:
    """Of all scenarios by turns."""
    mixed = zip_longest(*(scenario.prompts for scenario in scenarios().values()))
    every = [prompt for row in mixed for prompt in row if prompt]
    return [prompt.numbered(number) for number, prompt in enumerate(islice(cycle(every), how_many))]


def measure(artifact: Path, how_many: int) -> Start:
    """One start; raises `RuntimeError` where it or a request fails."""
    with serving(artifact) as (process, url, seconds):
        ready, target = Memory.of(process.pid), HttpTarget(url, os.environ.get("NIMBLE_API_KEY"))
        for prompt in prompts(how_many):
            if error := target.ask(prompt, TOKENS, Drafting.parse("default")).error:
                raise RuntimeError(f"a request failed: {error}")
        return Start(seconds, ready, Memory.of(process.pid))


def report(starts: Sequence[Start], weights: int, how_many: int) -> Table:
    """Medians, with the least and the most."""
    table = Table(title=f"{len(starts)} starts, weights of {weights / 1e6:,.0f} MB")
    for heading in ("", "median", "least", "most"):
        table.add_column(heading, justify="right" if heading else "left")
    after = f"after {how_many} requests"
    rows: list[tuple[str, list[float], str]] = [
        ("ready after", [each.seconds for each in starts], "{:.1f} s"),
        ("engine, resident", [each.ready.engine / 1e6 for each in starts], "{:,.0f} MB"),
        ("engine, over its weights", [each.ready.engine / weights for each in starts], "{:.2f}x"),
        (f"engine, {after}", [each.later.engine / 1e6 for each in starts], "{:,.0f} MB"),
        (f"engine over its weights, {after}", [each.later.engine / weights for each in starts], "{:.2f}x"),
        ("all processes", [each.ready.everything / 1e6 for each in starts], "{:,.0f} MB"),
        (f"all processes, {after}", [each.later.everything / 1e6 for each in starts], "{:,.0f} MB"),
    ]
    for name, found, form in rows:
        table.add_row(name, *(form.format(pick(found)) for pick in (statistics.median, min, max)))
    return table


def weight_bytes(artifact: Path) -> int:
    """Of all files of the engine's weights; raises `ManifestError` where there is no artefact."""
    return sum(path.stat().st_size for path in Artifact.open(artifact).engine.glob("*.safetensors"))


def main() -> None:
    """Starts, asks, stops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="a directory that build-engine printed")
    parser.add_argument("--starts", type=positive_int, default=5)
    parser.add_argument("--requests", type=natural, default=4, help=f"of {TOKENS} tokens, in each start, one by one")
    args = parser.parse_args()
    try:
        weights = weight_bytes(args.artifact)
        turns = track(range(args.starts), "starting", console=Console(stderr=True))
        starts = [measure(args.artifact, args.requests) for _ in turns]
    except (ManifestError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    Console(width=100).print(report(starts, weights, args.requests))


if __name__ == "__main__":
    main()
