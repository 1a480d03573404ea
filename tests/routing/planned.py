"""`nimble-coder plan` beside 1, 2 and 3 replicas that are measured behind HAProxy: `scripts/test-routing --plan`.

Each replica is a real Triton and a real gateway with an engine that sleeps in place of computing (`paced_model.py`), so
that three of them share a machine without sharing what they compute with. One is measured alone, as
`nimble-coder bench --concurrency` does it; the simulation is made of that; then requests come at random to 1, 2 and 3.
Ends with 1 where p50 or p95 of the time to first token is further than 15 % from the simulation of requests that come
at the same moments: 250 others have another p95, by chance alone (a standard deviation of 8 %). What the command itself
says, of 100,000 moments of its own, is printed beside it.
"""

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from operator import attrgetter
from pathlib import Path

import httpx

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.profiles import find_profile
from nimble_coder.bench.load.drafting import Drafting
from nimble_coder.bench.load.scenarios import scenarios
from nimble_coder.bench.load.sending import closed_loop, open_loop
from nimble_coder.bench.load.summary import summarise
from nimble_coder.bench.load.target import HttpTarget, Sample
from nimble_coder.bench.stand_in import stand_in_repository
from nimble_coder.planning.measured import Kind, spread
from nimble_coder.planning.simulation import Outcome, outcome, simulate
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.triton import Addresses, TritonServer
from tests.conftest import silent
from tests.routing.names import Names
from tests.routing.proxies import HOST, HTTP, proxy

ADDRESSES = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
LEVELS = (1, 2, 4, 8, 16)
TOKENS = 16
RATE = 2.5
"""Requests a second and replica."""
SECONDS = 100
BOUND = 0.15
SIMULATED = 100_000
PLACED = 40
"""Times that a request's replica is drawn anew, since the proxy's hashing is not known."""
MOST = 64
ENGINE = Path(__file__).with_name("paced_model.py")
numbers = count(int(time.time()))


def main() -> int:
    """Measures, compares, prints a line for each number of replicas."""
    with tempfile.TemporaryDirectory() as temporary, Names(HOST) as names, ExitStack() as stack:
        work = Path(temporary)
        artifact = build(find_profile("demo"), None, Cache(work / "cache"), silent)
        for address in ADDRESSES:
            stack.enter_context(replica(artifact, address, work / address))
        kind = alone(ADDRESSES[0])
        print(f"alone, first token by requests at once: {told(kind.first)}; between tokens: {told(kind.between)}")
        stack.enter_context(proxy("haproxy", work))
        print("in milliseconds: measured, simulated at the same moments, as planned")
        print(f"{'replicas':>8} {'/s':>5} {'requests':>8} {'TTFT p50 ms':>30} {'TTFT p95 ms':>30}")
        errors = [error for replicas in (1, 2, 3) for error in compared(names, kind, replicas)]
    worst = max(errors)
    print(f"the simulation is off by {worst:.1%} at most; {BOUND:.0%} are allowed")
    return int(worst > BOUND)


@contextmanager
def replica(artifact: Artifact, address: str, work: Path) -> Iterator[None]:
    """Triton and gateway on the usual ports of an address."""
    work.mkdir()
    repository = work / "model_repository"
    stand_in_repository(artifact, repository)
    (repository / "tensorrt_llm" / "1" / "model.py").write_text(ENGINE.read_text())
    many = {"NIMBLE_MAX_CONCURRENT_REQUESTS": "1024", "NIMBLE_LOG_LEVEL": "warning"}
    with TritonServer(repository, Addresses.free(), work / "triton.log") as triton:
        triton.wait_ready()
        listening = Addresses(host=address)
        with GatewayProcesses(
            artifact.directory, triton.addresses, listening, 1, work / "gateway.log", many
        ) as gateways:
            gateways.wait_ready()
            yield


def asked(url: str, requests: int) -> list[partial[Sample]]:
    """Completions, each with a number of its own, by which a proxy tells them apart."""
    target = HttpTarget(url)
    prompts = scenarios()["completion"].take(requests)
    return [partial(target.ask, each.numbered(next(numbers)), TOKENS, Drafting.parse("default")) for each in prompts]


def alone(address: str) -> Kind:
    """What one replica does at each level of load."""
    found = {}
    for level in LEVELS:
        found[level] = summarise([closed_loop(asked(f"http://{address}:8000", 20 * level), level)])
        assert not found[level].errors, found
    first, between = (
        {level: times(summary)["p50"] / 1000 for level, summary in found.items()}
        for times in (attrgetter("ttft_ms"), attrgetter("itl_ms"))
    )
    return Kind("completion", TOKENS, first, between, spread(found[1].ttft_ms))


def compared(names: Names, kind: Kind, replicas: int) -> Iterator[float]:
    """Measures so many replicas; yields how far the simulation is from each percentile, as a share of it."""
    names.addresses = list(ADDRESSES[:replicas])
    wait_for(replicas)
    rate = RATE * replicas
    samples = open_loop(asked(HTTP, int(rate * SECONDS)), rate, seed=replicas)
    failed = [sample.error for sample in samples if sample.error]
    assert not failed, failed
    seen = sorted(sample.first - sample.sent for sample in samples)
    same = sorted(at_the_same_moments(kind, [sample.sent for sample in samples], replicas))
    plan: Outcome = outcome([(kind, 1.0)], rate, replicas, MOST, SIMULATED)
    cells = []
    for share, planned in ((0.5, plan.ttft_p50), (0.95, plan.ttft_p95)):
        measured, simulated = (found[int(share * len(found))] for found in (seen, same))
        cells.append(f"{1000 * measured:.0f}, {1000 * simulated:.0f}, {1000 * planned:.0f}")
        yield abs(simulated - measured) / measured
    print(f"{replicas:8} {rate:5.1f} {len(seen):8} {cells[0]:>30} {cells[1]:>30}")


def at_the_same_moments(kind: Kind, moments: list[float], replicas: int) -> Iterator[float]:
    """Seconds to the first token of requests that came then, each placed anew many times."""
    for seed in range(PLACED):
        came = simulate([(kind, 1.0)], [*moments, moments[-1] + 600], replicas, MOST, random.Random(seed))
        yield from (request.first - request.came for request in came[:-1])


def wait_for(replicas: int) -> None:
    """Until the proxy has so many."""
    up = 'haproxy_server_status{proxy="http-pods",server="pod'
    while True:
        page = httpx.get(f"http://{HOST}:8404/metrics", timeout=10).text
        lines = [line for line in page.splitlines() if line.startswith(up) and 'state="UP"' in line]
        if sum(line.endswith(" 1") for line in lines) == replicas:
            return
        time.sleep(0.2)


def told(curve: object) -> str:
    """In milliseconds."""
    assert isinstance(curve, dict)
    return ", ".join(f"{level}: {1000 * seconds:.0f} ms" for level, seconds in curve.items())


if __name__ == "__main__":
    sys.exit(main())
