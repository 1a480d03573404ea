"""Measures which (w,n,g) gives the most tokens per second at which load, on the engine and the path that serve.

Plain decoding is recorded, and replays of it say what each candidate gains (`planning.replay`). At every load those run
once that the cost model expects most of, a quarter of all; the fastest few, the engine's own (W,N,G) and plain decoding
then take turns for some rounds, and the best median is the load's.
"""

import asyncio
import itertools
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path

from build_engine.artifact import Artifact
from build_engine.hardware import detect_hardware
from build_engine.lookahead import PLAIN, LookaheadConfig, Mode, label
from build_engine.machine import check_serves
from nimble_coder.bench.coding_prompts import OWN, coding_prompts
from nimble_coder.contract.encoding import Generation
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.policy import Level, Measured, PolicyError, Table
from nimble_coder.gateway.upstream.token_stream import TokenStreams
from nimble_coder.planning.cost_model import Gain, Replays
from nimble_coder.planning.replay import Recording
from nimble_coder.planning.screen import Screen
from nimble_coder.processes.triton import Addresses, TritonServer
from nimble_coder.text.tokenizer import TextTokenizer

FINALISTS = 4
PATIENCE = 1.5
"""Times the fastest measurement of a load so far: another ends then, and what it wrote until then tells its speed."""
LEAST_SECONDS = 1.0
"""No measurement ends before: of a small model, whose fastest takes some milliseconds, another would have no token."""
REACH = 0.75
"""Of the fastest; who is below takes no more turns. Other programs on a machine cost a measurement less than that."""
Tick = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    loads: Sequence[int]
    candidates: Sequence[Mode]
    engine: Mode
    """What a request that says nothing gets."""
    rounds: int = 2
    """Turns of those that are within reach, behind the first measurement."""
    most: int = sys.maxsize
    """Candidates that are measured at each load, as the cost model chooses; the engine's own choice is besides."""

    @property
    def measurements(self) -> int:
        """The most there will be."""
        first = min(self.most + (None in self.candidates), len(self.candidates))
        return len(self.loads) * (first + min(FINALISTS + 2, first) * self.rounds)


def loads_up_to(most: int) -> list[int]:
    """1, 2, 4, 8, ... and the engine's batch size."""
    return sorted({*itertools.takewhile(lambda load: load < most, (2**i for i in itertools.count())), most})


def candidates_within(engine: LookaheadConfig) -> list[LookaheadConfig]:
    """Plain decoding, the engine's own (W,N,G), and a grid below it: w by doubling, g equal to it, twice or four times
    as large, n from 3 on, since n-grams of two tokens draft one token at a time."""
    doubling = [2**i for i in range(engine.window_size.bit_length())]
    found = {PLAIN, engine}
    for w, n, more in itertools.product(
        doubling, {*range(3, min(engine.ngram_size, 6) + 1), engine.ngram_size}, (1, 2, 4)
    ):
        config = LookaheadConfig(w, n, w * more)
        if w * more <= engine.verification_set_size:
            found.add(config)
    return sorted(found, key=lambda config: (config.max_draft_tokens, astuple(config)))


class Load:
    """Some clients at once, each with one prompt after the other."""

    def __init__(self, streams: TokenStreams, prompts: Sequence[list[int]], tokens: int) -> None:
        self._streams, self._prompts, self._tokens = streams, prompts, tokens

    async def speed(self, config: Mode, load: int, within: float | None = None) -> float:
        """Tokens per second of `load` clients together, from the first request sent to the last token; each prompt is
        asked at least once, and every client asks twice. It ends early after `within` seconds. Raises `ApiError`."""
        asked: list[Recording] = []
        started = time.perf_counter()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._ask(config, load, asked)
        return sum(len(each.output) for each in asked) / (time.perf_counter() - started)

    async def record(self, load: int) -> list[Recording]:
        """What the model writes behind each prompt, plainly. Raises `ApiError`."""
        asked: list[Recording] = []
        await self._ask(PLAIN, load, asked)
        return list({tuple(each.prompt): each for each in asked}.values())

    async def _ask(self, config: Mode, load: int, asked: list[Recording]) -> None:
        waiting = itertools.islice(itertools.cycle(self._prompts), max(len(self._prompts), 2 * load))
        await asyncio.gather(*(self._client(waiting, config, asked) for _ in range(load)))

    async def _client(self, waiting: Iterator[list[int]], config: Mode, asked: list[Recording]) -> None:
        for ids in waiting:
            asked.append(Recording(ids, output := []))
            is_short = config is not None and len(ids) < config.ngram_size - 1
            generation = Generation(ids, self._tokens, (), PLAIN if is_short else config)
            async with aclosing(self._streams.generate(generation, "tune")) as steps:
                async for step in steps:
                    output.extend(step.token_ids)


def gains_of(recordings: Sequence[Recording], candidates: Sequence[Mode]) -> dict[LookaheadConfig, Gain]:
    """What every candidate brings but the engine's choice, whose steps are its own to say."""
    replays = Replays([each for each in recordings if len(each.output) > 1])
    return {config: replays.gain(config) for config in candidates if config is not None}


async def measure(load: Load, plan: Plan, gains: Mapping[LookaheadConfig, Gain], tick: Tick) -> list[Level]:
    """The best (w,n,g) of every load; `tick` is told each measurement. Raises `ApiError`."""
    levels = []
    for clients in plan.loads:
        shortest = inf

        async def speed(config: Mode, clients: int = clients) -> float:
            nonlocal shortest
            started = time.perf_counter()
            found = await load.speed(config, clients, within_of(shortest))
            shortest = min(shortest, time.perf_counter() - started)
            tick(f"{clients} at once, {label(config)}: {found:.0f} tokens/s")
            return found

        median = await race(speed, plan, await screen(speed, plan, gains))
        best = max(median, key=lambda config: median[config])
        levels.append(
            Level(
                load=clients,
                lookahead=None if best is None else (best.window_size, best.ngram_size, best.verification_set_size),
                tokens_per_second=median[best],
                engine=median[plan.engine],
                plain=median[PLAIN],
            )
        )
    return levels


def within_of(shortest: float) -> float | None:
    """Seconds that a measurement may take beside one of so many, if there was one."""
    return None if shortest == inf else max(PATIENCE * shortest, LEAST_SECONDS)


async def race(speed: Callable[[Mode], Awaitable[float]], plan: Plan, first: Mapping[Mode, float]) -> dict[Mode, float]:
    """The median of the fastest, of plain decoding and of the engine's own; those take turns that are within reach."""
    fastest = sorted(first, key=lambda config: first[config], reverse=True)[:FINALISTS]
    speeds = {config: [first[config]] for config in plan.candidates if config in (PLAIN, plan.engine, *fastest)}
    for turn in range(plan.rounds):
        best = max(max(found) for found in speeds.values())
        racing = [config for config, found in speeds.items() if max(found) >= REACH * best]
        for i in range(len(racing)):
            config = racing[(i + turn) % len(racing)]
            speeds[config].append(await speed(config))
    return {config: round(statistics.median(found), 1) for config, found in speeds.items()}


async def screen(
    speed: Callable[[Mode], Awaitable[float]], plan: Plan, gains: Mapping[LookaheadConfig, Gain]
) -> dict[Mode, float]:
    """Measures what the engine does by itself, and the candidates that are worth it."""
    found: dict[Mode, float] = {}
    if None in plan.candidates:
        found[None] = await speed(None)
    search = Screen(gains, plan.most)
    while (config := search.next()) is not None:
        found[config] = await speed(config)
        search.observe(config, found[config])
    return found


@contextmanager
def serving(artifact: Artifact, threads: int | None) -> Iterator[Addresses]:
    """The artefact in Triton, as the runtime stage starts it, on free ports."""
    check_serves(artifact)
    with (
        tempfile.TemporaryDirectory(prefix="nimble-tune-") as scratch,
        TritonServer(artifact.repository, Addresses.free(), Path(scratch) / "triton.log", threads) as triton,
    ):
        triton.wait_ready(timeout=600)
        yield triton.addresses


def tune(
    artifact: Artifact,
    plan: Plan,
    tokens: int,
    threads: int | None = None,
    prompts: Path = OWN,
    tick: Tick = lambda _: None,
) -> Table:
    """Measures an artefact. `tokens` are generated for each prompt. Raises `PolicyError` where there is nothing to
    choose or an engine that fails, and `TritonError`."""
    tokenizer = TextTokenizer(artifact.tokenizer)
    texts = [tokenizer.encode(text) for text in coding_prompts(prompts).values()]
    longest = min(artifact.manifest.profile.max_input_len, artifact.manifest.profile.max_seq_len - tokens)
    ids = [each[-longest:] for each in texts if each]
    if not ids or longest < 1:
        raise PolicyError(f"there is nothing to generate {tokens} tokens from: {prompts} needs .txt files that fit")

    async def run(addresses: Addresses) -> list[Level]:
        streams = TokenStreams(addresses.host, addresses.grpc_port)
        try:
            load = Load(streams, ids, tokens)
            recordings = await load.record(max(plan.loads))  # which is the first use of every slot
            return await measure(load, plan, gains_of(recordings, plan.candidates), tick)
        finally:
            streams.close()

    with serving(artifact, threads) as addresses:
        try:
            levels = asyncio.run(run(addresses))
        except ApiError as error:
            raise PolicyError(f"the engine failed while it was measured: {error}") from None
    return Table(measured=provenance(artifact), levels=levels)


def provenance(artifact: Artifact) -> Measured:
    """What was measured, when, where and how."""
    gpus = ", ".join(gpu.product for gpu in detect_hardware().gpus)
    return Measured(
        artifact=artifact.directory.name,
        date=datetime.now(UTC).date().isoformat(),
        machine=gpus or f"{platform.machine()}, {os.cpu_count()} cores",
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )
