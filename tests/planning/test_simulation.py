"""The simulation against what queueing theory knows, and the plan made of it."""

import json
import math
import random
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nimble_coder.commands.application import app
from nimble_coder.planning.measured import Kind, PlanError, at, read_kinds, spread
from nimble_coder.planning.simulation import fewest, most_a_second, outcome, poisson, simulate

SHARED = Kind("shared", 1, {1: 0.1, 2: 0.2}, {1: 0.0, 2: 0.0})
"""All of its work is before the first token, and two at once take twice as long: processor sharing."""
STEADY = Kind("steady", 11, {1: 0.1}, {1: 0.01, 64: 0.01})


def mean_first(rate: float, max_at_once: int, kind: Kind = SHARED) -> float:
    """Mean seconds to the first token on one pod, once it is as it is usually."""
    chance = random.Random(0)
    came = simulate([(kind, 1.0)], poisson(rate, 30_000, chance), 1, max_at_once, chance)[6_000:]
    return statistics.mean(request.first - request.came for request in came if not math.isnan(request.first))


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_pod_is_a_queue_with_processor_sharing(busy: float) -> None:
    """M/G/1-PS: the mean time is s / (1 - rho) whatever the work's spread (Kleinrock, Queueing Systems II, 4.4)."""
    assert mean_first(busy / 0.1, 10_000) == pytest.approx(0.1 / (1 - busy), rel=0.15)


def test_a_full_pod_lets_wait_in_line() -> None:
    """M/D/1: the mean wait is rho s / (2 (1 - rho)) (Pollaczek and Khinchine)."""
    assert mean_first(0.7 / 0.1, 1) == pytest.approx(0.1 + 0.7 * 0.1 / (2 * 0.3), rel=0.15)


def test_requests_that_differ_wait_as_queueing_theory_says() -> None:
    """M/G/1: the mean wait is lambda E[S^2] / (2 (1 - rho)) (Pollaczek and Khinchine), of a log-normal S here."""
    sigma = 0.5
    mean, square = 0.1 * math.exp(sigma**2 / 2), 0.01 * math.exp(2 * sigma**2)
    rate = 0.6 / mean
    varied = replace(SHARED, spread=sigma)
    assert mean_first(rate, 1, varied) == pytest.approx(mean + rate * square / (2 * (1 - 0.6)), rel=0.15)


def test_the_spread_is_what_a_lone_pod_has_shown() -> None:
    alone = outcome([(replace(STEADY, spread=spread({"p50": 100.0, "p90": 200.0})), 1.0)], 0.01, 1, 8, 8_000)
    assert (alone.ttft_p50, alone.ttft_p95) == pytest.approx((0.1, 0.1 * 2 ** (1.6449 / 1.2816)), rel=0.05)


def test_a_lone_request_has_what_was_measured() -> None:
    found = outcome([(STEADY, 1.0)], 0.01, 1, 8, 200)
    assert (found.ttft_p50, found.itl_p50) == pytest.approx((0.1, 0.01))


def test_more_pods_never_serve_worse() -> None:
    p95 = [outcome([(SHARED, 1.0)], 16.0, pods, 64, 5_000).ttft_p95 for pods in (2, 3, 4, 8)]
    assert p95 == sorted(p95, reverse=True)


def test_the_fewest_pods_meet_the_objective_and_one_less_does_not() -> None:
    kinds = [(SHARED, 1.0)]
    found = fewest(kinds, 40.0, ttft=0.3, itl=1.0, max_at_once=64, requests=3_000)
    assert found is not None
    assert found.meets(0.3, 1.0)
    assert not outcome(kinds, 40.0, found.pods - 1, 64, 3_000).meets(0.3, 1.0)
    assert fewest(kinds, 1.0, ttft=0.05, itl=1.0, max_at_once=64, requests=500, most=8) is None


def test_a_load_above_the_pods_is_no_plan() -> None:
    found = outcome([(SHARED, 1.0)], 30.0, 2, 64, 2_000)
    assert not found.meets(math.inf, math.inf)


@pytest.mark.parametrize(("at_once", "seconds"), [(1, 0.1), (2, 0.2), (3, 0.25), (4, 0.3), (8, 0.6)])
def test_between_two_levels_it_is_a_straight_line_and_beyond_in_proportion(at_once: int, seconds: float) -> None:
    assert at({1: 0.1, 2: 0.2, 4: 0.3}, at_once) == pytest.approx(seconds)


def measured(place: Path) -> Path:
    """As `nimble-coder bench --json` writes it, what is needed of it."""
    rows = [
        {
            "scenario": name,
            "concurrency": level,
            "requests": 12,
            "errors": 2,
            "tokens": 320,
            "ttft_ms": {"p50": 100.0 * level, "p90": 200.0 * level},
            "itl_ms": {"p50": 10.0 * level},
        }
        for name in ("chat", "infill")
        for level in (1, 4)
    ]
    file = place / "bench.json"
    file.write_text(json.dumps({"results": rows}))
    return file


def test_pods_that_do_not_keep_up_are_told(tmp_path: Path) -> None:
    command = ["plan", str(measured(tmp_path)), "--rate", "1000", "--replicas", "1", "--requests", "6000"]
    assert "0% of the requests had ended" in CliRunner().invoke(app, command).output
    told = json.loads(CliRunner().invoke(app, [*command, "--format", "json"]).output)
    assert (told["finished"], told["ttft_p95"]) == (0.0, None)


def test_a_pod_ends_no_more_a_second_than_it_does_at_its_best() -> None:
    """So that no plan begins with pods that cannot keep up, each of which takes as long to simulate as all others."""
    halting = Kind("halting", 1, {1: 0.1, 4: 0.2, 8: 0.8}, {1: 0.0})
    assert most_a_second([(halting, 1.0)], 64) == pytest.approx(4 / 0.2)
    assert most_a_second([(halting, 1.0)], 2) == pytest.approx(2 / at(halting.first, 2))
    assert most_a_second([(halting, 1.0), (SHARED, 3.0)], 1) == pytest.approx(1 / 0.1)
    assert not outcome([(halting, 1.0)], 20 / 0.9, 1, 4, 5_000).keeps_up


def test_what_bench_writes_is_read(tmp_path: Path) -> None:
    chat = read_kinds(measured(tmp_path))["chat"]
    assert chat == Kind("chat", 32.0, {1: 0.1, 4: 0.4}, {1: 0.01, 4: 0.04}, math.log(2) / 1.2816)
    (tmp_path / "other.json").write_text('{"results": [{"scenario": "chat", "rate": 2}]}')
    with pytest.raises(PlanError, match="is not what `nimble-coder bench"):
        read_kinds(tmp_path / "other.json")
    (tmp_path / "other.json").write_text('{"results": []}')
    with pytest.raises(PlanError, match="nothing was measured"):
        read_kinds(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"concurrency": "1"}, "is not what `nimble-coder bench"),
        ({"concurrency": 0}, "is not what"),
        ({"ttft_ms": {"p50": math.nan, "p90": 1.0}}, "a measurement of nan"),
        ({"ttft_ms": {"p50": 1.0, "p90": math.inf}}, "a measurement of inf"),
        pytest.param({"ttft_ms": {"p50": 10**400, "p90": 10**400}}, "is not what", id="400 digits"),
        ({"itl_ms": {"p50": -1.0}}, "a measurement of -1.0"),
        ({"itl_ms": [1.0]}, "is not what"),
        ({"tokens": -1}, "a measurement of -1"),
        ({"errors": 12}, "every request of chat at 1 at once failed"),
    ],
    ids=str,
)
def test_measurements_that_are_none_are_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    file = measured(tmp_path)
    rows = json.loads(file.read_text())["results"]
    file.write_text(json.dumps({"results": [rows[0] | change, *rows[1:]]}))
    done = CliRunner().invoke(app, ["plan", str(file), "--rate", "1"])
    assert (done.exit_code, reason in done.output) == (2, True), done.output


def test_the_command_tells_pods_and_gpus(tmp_path: Path) -> None:
    command = [
        "plan",
        str(measured(tmp_path)),
        "--developers",
        "1000",
        "--per-minute",
        "1",
        "--ttft",
        "2",
        "--itl",
        "0.2",
    ]
    command += ["--gpus", "2", "--requests", "3000", "--format", "json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["rate"] == pytest.approx(1000 / 60)
    assert told["gpus"] == 2 * told["pods"]
    assert told["pods"] > 16.7 * (0.1 + 31 * 0.01) * 0.9
    for wrong in (["--rate", "1", "--developers", "1"], [], ["--rate", "1", "--mix", "poem=1"]):
        assert CliRunner().invoke(app, ["plan", str(measured(tmp_path)), *wrong]).exit_code == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--rate", "inf"], "above zero, and finite"),
        (["--rate", "1e308"], "are too many to simulate"),
        (["--developers", "-5", "--per-minute", "-2"], "above zero, and finite"),
        (["--rate", "1", "--ttft", "nan"], "both must be above zero"),
        (["--rate", "1", "--itl", "0"], "both must be above zero"),
        (["--rate", "1", "--requests", "99999999999"], "less than or equal to"),
        pytest.param(["--rate", "1", "--mix", "chat=" + "9" * 400], "is no weight of chat", id="400 digits"),
        (["--rate", "1", "--mix", "chat=x"], "'x' is no weight of chat"),
        (["--rate", "1", "--mix", "chat=0,infill=0"], "all weights are 0"),
        (["--rate", "1", "--mix", "chat=1,chat=2"], "chat has two weights"),
        (["--rate", "1000", "--requests", "5125"], "--requests 5126"),
        (["--rate", "1", "--replicas", "4097"], "4096"),
        (["--rate", "1", "--ttft", "0.01", "--requests", "50"], "not even 4096 pods have"),
    ],
)
def test_a_load_that_is_none_is_refused(tmp_path: Path, options: list[str], reason: str) -> None:
    done = CliRunner().invoke(app, ["plan", str(measured(tmp_path)), *options])
    assert (done.exit_code, reason in done.output) == (2, True)
