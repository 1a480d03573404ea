"""Tuning tries what the engine can run, on the engine itself, and writes what was fastest."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from build_engine.artifact import Artifact
from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.bench.tuning import Load, Plan, candidates_within, loads_up_to, measure
from nimble_coder.gateway.policy import Policy


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


class Foreseeable:
    """A load whose speeds are known: more drafts help one client and harm many. The first measurement misleads."""

    def __init__(self) -> None:
        self.asked: list[tuple[LookaheadConfig, int]] = []

    async def speed(self, config: LookaheadConfig, load: int) -> float:
        first = (config, load) not in self.asked
        self.asked.append((config, load))
        drafts = config.max_draft_tokens
        misleading = 500.0 if first and drafts == 14 else 0.0
        return 100.0 * load + (drafts if load == 1 else -drafts) + misleading


def test_every_load_gets_what_was_fastest_in_the_median_of_the_rounds() -> None:
    engine = LookaheadConfig(8, 8, 8)
    configs = [PLAIN, *(LookaheadConfig.parse(text) for text in ("1,3,2", "1,4,4", "2,4,4", "4,4,4", "4,5,4")), engine]
    load, ticks = Foreseeable(), list[str]()
    plan = Plan([1, 8], configs, engine, rounds=3)
    levels = asyncio.run(measure(cast(Load, load), plan, ticks.append))
    assert [(level.load, level.config) for level in levels] == [(1, engine), (8, PLAIN)]
    assert (levels[0].plain, levels[0].engine, levels[0].tokens_per_second) == (100, 211, 211)
    assert len(ticks) == len(load.asked) <= plan.measurements
    finalists = {config for config, _ in load.asked[len(configs) : len(ticks) // 2]}
    assert {PLAIN, engine, LookaheadConfig(1, 4, 4)} <= finalists


def run(artifact: Artifact, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nimble_coder.cli", "tune", str(artifact.directory), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


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
        (["--prompts", "/nowhere"], "needs .txt files"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(
    artifact: Artifact, options: list[str], reason: str
) -> None:
    done = run(artifact, *options)
    assert (done.returncode, reason in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
