"""The load benchmark against the suite's own service, by HTTP and by gRPC, and against one that it starts itself."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from build_engine.artifact import Artifact
from nimble_coder.bench.load.drafting import Drafting
from nimble_coder.bench.load.scenarios import Prompt, scenarios
from nimble_coder.bench.load.target import GrpcTarget, target_of
from nimble_coder.client.grpc import CompletionError
from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import gateway
from tests.standin.in_process import call

__all__ = ["gateway"]


def bench(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nimble_coder.cli", "bench", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def requests_so_far(serving: Serving) -> int:
    """What the gateway has been asked to generate, by HTTP."""
    with urllib.request.urlopen(serving.addresses.metrics, timeout=10) as answer:
        page = answer.read().decode()
    found = re.findall(r'^nimble_http_requests_total\{route="\S+completions"\S* (\S+)$', page, re.MULTILINE)
    return int(sum(map(float, found)))


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["results"]
    return found


def test_a_run_sends_exactly_what_it_says_and_tells_all_of_it(gateway: Serving, tmp_path: Path) -> None:
    """Every scenario once, and those with short prompts over and over: a run counts alike whatever it sends."""
    short = ("--scenarios", "chat", "completion", "--requests", 2, "--rounds", 2, "--warm-up", 1)
    once = ("--requests", 1, "--rounds", 1, "--warm-up", 0)
    for names, arguments, levels, requests, warm_up in (
        (("chat", "completion"), short, (1, 2), 4, 1),
        (tuple(scenarios()), once, (1,), 1, 0),
    ):
        before = requests_so_far(gateway)
        options = (*arguments, "--max-tokens", 16, "--concurrency", *levels)
        done = bench("--url", gateway.addresses.http, *options, "--json", tmp_path / "run.json")
        assert done.returncode == 0, done.stderr
        total = len(names) * (warm_up + len(levels) * requests)
        assert f"{total} requests" in done.stdout
        assert requests_so_far(gateway) - before == total
        found = rows(tmp_path / "run.json")
        assert [(row["scenario"], row["concurrency"]) for row in found] == [
            (name, level) for name in names for level in levels
        ]
        for row in found:
            assert (row["requests"], row["errors"], row["drafting"]) == (requests, 0, "default")
            assert requests <= row["tokens"] <= requests * 16
            assert 0 < row["ttft_ms"]["p50"] <= row["latency_ms"]["p50"]
            assert row["tokens_per_second"] > 0
            assert row["lookahead"]


def test_two_configurations_take_turns_and_the_ratio_has_its_spread(gateway: Serving, tmp_path: Path) -> None:
    arguments = ("--scenarios", "chat", "--requests", 2, "--rounds", 3, "--max-tokens", 48)
    figures = tmp_path / "figures"
    done = bench(
        *("--url", gateway.addresses.http, *arguments, "--compare", "plain", "4,3,4"),
        *("--json", tmp_path / "run.json", "--plot", figures),
    )
    assert done.returncode == 0, done.stderr
    plain, drafted = rows(tmp_path / "run.json")
    assert (plain["drafting"], drafted["drafting"]) == ("plain", "4,3,4")
    assert plain["lookahead"] == ["1,1,0"]
    assert drafted["lookahead"] == ["4,3,4"]
    assert plain["tokens_per_step"] == 1
    assert plain["acceptance"] is None
    assert drafted["tokens_per_step"] > 1
    assert 0 < drafted["acceptance"] < 1
    for name in ("ratio", "stream_ratio"):
        assert drafted[name]["least"] <= drafted[name]["median"] <= drafted[name]["most"]
        assert name not in plain
    assert re.search(r"\d\.\d\dx \(\d\.\d\d-\d\.\d\d\)", done.stdout)
    assert sorted(path.name for path in figures.iterdir()) == [
        f"{name}.{kind}" for name in ("acceptance", "speed-up", "tokens-per-step") for kind in ("png", "svg")
    ]
    assert (figures / "speed-up.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (figures / "speed-up.svg").read_text()


def test_several_ways_to_draft_take_turns_and_have_a_figure_of_what_is_accepted(
    gateway: Serving, tmp_path: Path
) -> None:
    ways = ("plain", "1,3,1", "4,3,4", "draft:4")
    done = bench(
        *("--url", gateway.addresses.http, "--scenarios", "chat", "--requests", 1, "--rounds", 1, "--max-tokens", 32),
        *("--drafting", *ways, "--json", tmp_path / "run.json", "--plot", tmp_path / "figures"),
    )
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "run.json")
    assert [row["drafting"] for row in found] == [*ways]
    assert [row["acceptance"] is None for row in found] == [True, False, False, False]
    assert all("ratio" not in row for row in found)
    assert "4,3,4" in (tmp_path / "figures" / "acceptance.svg").read_text()


def test_an_open_loop_and_several_levels_have_a_figure_of_throughput(gateway: Serving, tmp_path: Path) -> None:
    done = bench(
        *("--url", gateway.addresses.http, "--scenarios", "completion", "--rate", 20, 40, "--requests", 4),
        *("--rounds", 1, "--max-tokens", 8, "--json", tmp_path / "run.json", "--plot", tmp_path / "figures"),
    )
    assert done.returncode == 0, done.stderr
    assert [row["rate"] for row in rows(tmp_path / "run.json")] == [20, 40]
    assert (tmp_path / "figures" / "throughput.svg").is_file()


def test_grpc_gives_the_same_figures(gateway: Serving, tmp_path: Path) -> None:
    url = f"grpc://{gateway.addresses.grpc}"
    arguments = ("--scenarios", "completion", "infill", "--requests", 2, "--rounds", 1, "--max-tokens", 16)
    done = bench("--url", url, *arguments, "--drafting", "4,3,4", "--json", tmp_path / "run.json")
    assert done.returncode == 0, done.stderr
    for row in rows(tmp_path / "run.json"):
        assert row["errors"] == 0
        assert row["tokens"] > 0
        assert row["prompt_tokens"] > 0
        assert row["ttft_ms"]["p50"] > 0


@pytest.mark.parametrize("name", ["completion", "infill"])  # the toy has another system prompt
def test_a_prompt_is_the_same_for_both_endpoints(gateway: Serving, name: str) -> None:
    """The text with control tokens is what the gateway makes of a chat or an infill."""
    prompt = scenarios()[name].prompts[0]
    urls = gateway.addresses.http, f"grpc://{gateway.addresses.grpc}"
    one, other = (target_of(url).ask(prompt, 24, Drafting("default")) for url in urls)
    assert one.error == other.error == ""
    assert one.prompt_tokens == other.prompt_tokens
    assert other.text.startswith(one.text.rstrip("\n"))


def test_drafting_by_suffix_is_asked_for_by_its_field_and_is_for_http_alone(gateway: Serving) -> None:
    prompt, draft = Prompt("x", prefix="a = 1\nb = 2\na = 1\nb = 2\na ="), Drafting.parse("draft:8")
    assert target_of(gateway.addresses.http).ask(prompt, 24, draft).accepted > 0
    assert "http://" in target_of(f"grpc://{gateway.addresses.grpc}").ask(prompt, 24, draft).error


def test_without_a_url_the_engine_that_would_be_served_is_started(artifact: Artifact, tmp_path: Path) -> None:
    arguments = ("--scenarios", "chat", "--requests", 1, "--rounds", 1, "--max-tokens", 8, "--warm-up", 0)
    for named in (("--artifact", artifact.directory), ()):
        done = bench(*arguments, *named, NIMBLE_BAKED_ARTIFACT=str(artifact.directory))
        assert done.returncode == 0, done.stderr
        assert ": 1 requests" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--url", "http://127.0.0.1:9"), "Connection refused"),
        (("--url", "ftp://example.com"), "is not a service's URL"),
        (("--drafting", "fast"), "is not default, plain, W,N,G, draft:N or one of lookahead, suffixes, windowed"),
        (("--scenarios", "poetry"), "invalid choice"),
    ],
)
def test_what_cannot_be_measured_is_an_error_without_a_traceback(arguments: tuple[str, ...], message: str) -> None:
    done = call(Path(), "bench", *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_target_that_is_none_is_refused() -> None:
    with pytest.raises(CompletionError):
        target_of("nonsense")


@pytest.mark.parametrize("way", ["draft:4", "suffixes"])
def test_a_way_to_draft_that_grpc_does_not_carry_is_an_error_and_not_left_out(way: str) -> None:
    sample = GrpcTarget("127.0.0.1:9").ask(Prompt("one", "def f():"), 4, Drafting.parse(way))
    assert "fields of HTTP requests" in (sample.error or "")
