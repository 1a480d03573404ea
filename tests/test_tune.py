"""Tuning tries what the engine can run, on the engine itself, and writes what was fastest."""

import asyncio
import math
import random
import subprocess
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from build_engine.artifact import Artifact
from build_engine.lookahead import PLAIN, LookaheadConfig, LookaheadError, Mode
from build_engine.profiles import Profile, find_profile
from nimble_coder.bench.tuning import Load, Plan, candidates_within, gains_of, loads_up_to, measure, race
from nimble_coder.commands.tune import check_files, plan_for, proposed
from nimble_coder.contract.encoding import Generation
from nimble_coder.gateway.policy import Policy, PolicyError
from nimble_coder.gateway.upstream.token_stream import Step, TokenStreams
from nimble_coder.planning.cost_model import Gain
from nimble_coder.planning.replay import Recording
from nimble_coder.planning.screen import screened
from tests.standin.in_process import call


@pytest.mark.parametrize("engine", [LookaheadConfig(8, 8, 8), LookaheadConfig(15, 15, 15), LookaheadConfig(4, 3, 4)])
def test_the_candidates_are_within_the_engines_and_hold_its_own_and_plain_decoding(engine: LookaheadConfig) -> None:
    candidates = candidates_within(engine)
    assert candidates[0] == PLAIN
    assert candidates[-1] == engine
    assert len(set(candidates)) == len(candidates) <= 80
    for config in candidates:
        config.check_within(engine)


def test_loads_double_up_to_the_batch() -> None:
    assert loads_up_to(8) == [1, 2, 4, 8]
    assert loads_up_to(12) == [1, 2, 4, 8, 12]
    assert loads_up_to(1) == [1]


CYCLE = [*range(300, 317), 300, 301, 330]
RECORDING = Recording(CYCLE * 3, [*CYCLE * 2, *range(400, 412), *CYCLE])
"""Drafts of it are sometimes right."""


class Foreseeable:
    """A load whose speeds are known: what replays gain, a little off, over steps that cost `seconds` by their rows."""

    def __init__(self, gains: Mapping[LookaheadConfig, Gain], seconds: Callable[[float], float]) -> None:
        self._gains, self._seconds = gains, seconds
        self.asked: list[tuple[Mode, int]] = []

    async def speed(self, config: Mode, load: int, _: float | None = None) -> float:
        """The first measurement of a candidate misleads by up to a twentieth."""
        off = 1.0 if (config, load) in self.asked else 0.95 + 0.1 * random.Random(str(config)).random()
        self.asked.append((config, load))
        return off * self.true(config, load)

    def true(self, config: Mode, load: int) -> float:
        if config is None:
            return 0.5 * load / self._seconds(load)
        gain = self._gains[config]
        wrong = 0.98 + 0.04 * random.Random(repr(config)).random()
        return wrong * load * gain.tokens / self._seconds(load * gain.rows)


STEPS: dict[str, Callable[[float], float]] = {
    "a CPU": lambda rows: 0.03 * max(1.0, 0.3 + 0.13 * rows),
    "a GPU": lambda rows: 0.005 * math.hypot(1.0, rows / 200),
    "rows are free": lambda rows: 0.005 + 0 * rows,
    "rows are all": lambda rows: 0.001 * rows,
}


@pytest.mark.parametrize("machine", STEPS)
@pytest.mark.parametrize("own", [None, LookaheadConfig(15, 15, 15)])
def test_a_quarter_of_the_grid_is_measured_and_what_is_chosen_is_as_fast_as_the_best(machine: str, own: Mode) -> None:
    grid = candidates_within(LookaheadConfig(15, 15, 15))
    gains = gains_of([RECORDING], grid)
    load, ticks = Foreseeable(gains, STEPS[machine]), list[str]()
    candidates = list(dict.fromkeys([*grid, own]))
    plan = Plan([1, 4, 16], candidates, own, rounds=3, most=screened(len(grid)))
    levels = asyncio.run(measure(cast(Load, load), plan, gains, ticks.append))
    assert len(ticks) == len(load.asked) <= plan.measurements
    for level in levels:
        tried = {config for config, clients in load.asked if clients == level.load}
        assert PLAIN in tried
        assert own in tried
        assert len(tried - {None}) <= 0.25 * len(grid) + 1
        best = max(load.true(config, level.load) for config in candidates)
        assert load.true(level.config, level.load) >= 0.97 * best, (level.load, level.config)


def test_those_that_a_person_names_are_all_measured_and_the_median_of_the_rounds_decides() -> None:
    engine = LookaheadConfig(8, 8, 8)
    configs = [PLAIN, *(LookaheadConfig.parse(text) for text in ("1,3,2", "1,4,4", "2,4,4", "4,4,4", "4,5,4")), engine]
    gains = gains_of([RECORDING], configs)
    load, ticks = Foreseeable(gains, STEPS["rows are free"]), list[str]()
    plan = Plan([1], configs, engine, rounds=3)
    level = asyncio.run(measure(cast(Load, load), plan, gains, ticks.append))[0]
    assert {config for config, _ in load.asked} == set(configs)
    assert len(ticks) == len(load.asked) <= plan.measurements
    assert level.tokens_per_second == pytest.approx(max(load.true(each, 1) for each in configs), rel=1e-3)
    assert level.engine == pytest.approx(load.true(engine, 1), rel=1e-3)
    assert level.plain == pytest.approx(load.true(PLAIN, 1), rel=0.05)


def test_only_those_take_turns_that_are_within_reach_of_the_fastest() -> None:
    slow, close, engine = LookaheadConfig(1, 3, 1), LookaheadConfig(1, 4, 1), LookaheadConfig(4, 4, 4)
    speeds: dict[Mode, float] = {PLAIN: 70, slow: 74, close: 95, engine: 100}
    asked: list[Mode] = []

    async def speed(config: Mode) -> float:
        asked.append(config)
        return speeds[config]

    plan = Plan([1], list(speeds), engine, rounds=2)
    assert asyncio.run(race(speed, plan, speeds)) == speeds
    assert asked == [close, engine, engine, close]


class Typing(TokenStreams):
    """Streams of a token each hundredth of a second; counts those that ended."""

    def __init__(self) -> None:
        self.ended = 0

    async def generate(self, generation: Generation, request_id: str) -> AsyncGenerator[Step, None]:
        assert request_id
        try:
            for token in range(generation.max_tokens):
                await asyncio.sleep(0.01)
                yield Step([token])
        finally:
            self.ended += 1


def test_a_measurement_that_takes_too_long_ends_and_tells_the_speed_until_then() -> None:
    streams = Typing()
    load = Load(streams, [[1, 2, 3]], 500)
    started = time.perf_counter()
    speed = asyncio.run(load.speed(PLAIN, 2, within=0.3))
    assert time.perf_counter() - started < 2
    assert 20 < speed < 210
    assert streams.ended == 2
    assert len(asyncio.run(load.record(1))[0].output) == 500


def test_a_compiled_engine_is_told_what_the_model_would_build_and_a_portable_one_is_not() -> None:
    told = proposed(find_profile("qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"))
    assert told
    assert "by requests at once: (1,15,15) for 1" in told
    assert "not measured" in told
    assert proposed(find_profile("demo")) is None


def test_a_portable_engine_is_tried_with_what_a_request_may_name(narrow: Artifact) -> None:
    plan = plan_for(narrow, "1", ["4,3,4", "8,8,8"], 1)
    assert plan.candidates == [PLAIN, LookaheadConfig(4, 3, 4), LookaheadConfig(8, 8, 8), None]
    with pytest.raises(LookaheadError, match=r"\(9,3,1\) exceeds the engine's \(8,8,8\)"):
        plan_for(narrow, "1", ["9,3,1"], 1)


def test_a_compiled_engine_is_tried_with_no_more_than_it_was_built_for(narrow: Artifact) -> None:
    published = find_profile("qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8")
    compiled = with_profile(narrow, replace(published, lookahead=LookaheadConfig(4, 3, 4)))
    with pytest.raises(LookaheadError, match=r"exceeds the engine's \(4,3,4\)"):
        plan_for(compiled, "1", ["8,8,8"], 1)
    with pytest.raises(PolicyError, match="nothing to choose"):
        plan_for(with_profile(narrow, replace(published, lookahead=PLAIN)), "1", ["4,3,4"], 1)


def test_a_portable_engine_without_lookahead_of_its_own_is_tried_with_what_a_person_names(narrow: Artifact) -> None:
    plain = with_profile(narrow, replace(narrow.manifest.profile, lookahead=PLAIN))
    assert plan_for(plain, "1", ["4,3,4"], 1).candidates == [PLAIN, LookaheadConfig(4, 3, 4)]
    with pytest.raises(PolicyError, match="say with --config what to try"):
        plan_for(plain, "1", [], 1)


def with_profile(artifact: Artifact, profile: Profile) -> Artifact:
    return replace(artifact, manifest=replace(artifact.manifest, profile=profile))


def run(artifact: Artifact, *options: str) -> subprocess.CompletedProcess[str]:
    return call(Path(), "tune", str(artifact.directory), *options)


def test_the_command_measures_a_served_engine_and_writes_its_policy(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("import os\nimport sys\n\ndef main(argv):\n    ")
    (tmp_path / "two.txt").write_text("def")
    output = tmp_path / "policy.yaml"
    sizes = ["--loads", "2,1", "--config", "2,4,2", "--tokens", "6", "--rounds", "1", "--prompts", str(tmp_path)]
    done = run(artifact, *sizes, "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "x engine's own" in done.stderr
    policy = Policy.read(output, artifact.manifest.profile.lookahead)
    assert [load for load, _ in policy.levels] == [1, 2]
    assert "--loads 2,1" in output.read_text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--loads", "1,64"], "this engine runs 1 to 32 requests at once"),
        (["--loads", "many"], "not a list of whole numbers"),
        (["--config", "9,8,8"], "exceeds the engine's"),
        (["--prompts", "/nowhere"], "/nowhere is no folder of .txt files"),
        (["--output", "/proc/x/policy.yaml"], "/proc/x/policy.yaml cannot be written"),
        (["--output", "/etc"], "/etc is a directory"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(
    artifact: Artifact, options: list[str], reason: str
) -> None:
    done = run(artifact, *options)
    assert (done.returncode, reason in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert "starting Triton" not in done.stderr


@pytest.mark.parametrize(
    ("prompt", "reason"), [(b"\xff", "cannot be read as UTF-8"), (b"", "a.txt is empty"), (None, "cannot be read")]
)
def test_prompts_that_are_none_are_refused_before_anything_starts(
    artifact: Artifact, tmp_path: Path, prompt: bytes | None, reason: str
) -> None:
    place = tmp_path / "a.txt"
    place.mkdir() if prompt is None else place.write_bytes(prompt)
    with pytest.raises(PolicyError, match=reason):
        check_files(tmp_path, tmp_path / "policy.yaml")
