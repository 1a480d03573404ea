"""The benchmark of the cost model: its figures on the embedded toy, and the choice that it judges."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nimble_coder.bench.cost_model import Choice, Result, measurements, summary
from nimble_coder.bench.load.drafting import Drafting
from nimble_coder.bench.lookahead import PLAINLY


def result(way: str, measured: float, predicted: float, load: int = 1) -> Result:
    return Result(way, load, 4.0, 2.0, 2.0, measured, predicted)


SWEEP = [result(str(i), 100.0 + i, 100.0 + i + (30 if i == 17 else 0)) for i in range(20)]
"""The model expects most of the third best."""


def test_a_choice_measures_a_quarter_and_takes_the_fastest_of_it() -> None:
    choice = Choice.by_model(SWEEP, 1)
    assert (choice.best.way, choice.chosen.way) == ("19", "19")
    assert choice.measured == 5
    few = Choice.by_model([*SWEEP[:5], result("dark horse", 200.0, 1.0)], 1)
    assert (few.best.way, few.chosen.way, few.measured) == ("dark horse", "4", 2)


def test_the_summary_tells_errors_of_speeds_and_of_gains() -> None:
    results = [result("a", 100.0, 110.0), result("b", 100.0, 80.0), result("c", 100.0, 101.0)]
    told = summary(results, [Choice.by_model(results, 1)])
    assert "error over 3 predictions: median 10.0%, most 20.0%" in told[0]
    assert "of tokens per step: median 0.0%" in told[0]
    assert "chosen a 100.0" in told[1]


def test_every_round_measures_everything_once_in_another_order() -> None:
    ways = [Drafting.parse(text) for text in ("1,4,1", "draft:8")]
    asked = list(measurements(ways, [1, 4], rounds=2))
    assert len(asked) == 12
    assert set(asked[:6]) == set(asked[6:])
    assert asked[:6] != asked[6:]


def test_plain_decoding_is_measured_between_the_ways() -> None:
    ways = [Drafting.parse(text) for text in ("1,2,1", "1,3,1", "1,4,1", "1,5,1", "1,6,1", "1,7,1", "1,8,1")]
    names = [way.name for way, _ in measurements(ways, [1], rounds=1)]
    assert [i for i, name in enumerate(names) if name == PLAINLY.name] == [0, 6]
    assert len(names) == 9


def test_it_predicts_and_measures_the_embedded_toy(tmp_path: Path) -> None:
    sizes = ["--count", "2", "--max-tokens", "24", "--rounds", "1", "--loads", "1", "2"]
    ways = ["--configs", "1,4,1", "4,3,4", "draft:8"]
    command = [
        sys.executable,
        "-m",
        "nimble_coder.bench.cost_model",
        *sizes,
        *ways,
        "--json",
        str(tmp_path / "run.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "error over 6 predictions" in done.stdout
    found = json.loads((tmp_path / "run.json").read_text())["results"]
    assert [(each["way"], each["load"]) for each in found] == [(w, n) for n in (1, 2) for w in ways[1:]]
    for each in found:
        assert min(each["measured"], each["predicted"]) > 0
        if each["way"] != "draft:8":  # whose cut depends on how busy the machine is
            assert each["predicted_tokens_per_step"] == pytest.approx(each["tokens_per_step"], rel=0.1)
