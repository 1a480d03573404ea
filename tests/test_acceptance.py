"""The acceptance run on stand-ins: it asks everything, stops at nothing, and its report says what was seen."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.lookahead import LookaheadConfig
from nimble_coder.commands import acceptance
from nimble_coder.commands.acceptance import (
    Engines,
    Probe,
    answer,
    checklist,
    engine_probes,
    interface_probes,
    report,
    shell,
)
from nimble_coder.processes import triton_installation as installation
from tests.standin.machine import ROOT, STANDIN, Machine


def run(machine: Machine, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "nimble_coder.commands.acceptance", *arguments],
        capture_output=True,
        text=True,
        cwd=machine.home,
        check=False,
        timeout=120,
    )


def test_every_interface_that_the_build_stage_uses_is_asked_for(h100: Machine) -> None:
    """The stand-ins have the recorded interfaces, so these probes pass; what is no interface of theirs does not."""
    results = {probe.name: answer(probe).verdict for probe in interface_probes() if probe.name != "library"}
    assert {name for name, verdict in results.items() if verdict == "as expected"} == {
        "version",
        "flags",
        "conversion",
        "saving",
        "quantisation",
    }


def test_the_run_prints_a_report_and_fails_where_something_is_not_as_expected(machine: Machine) -> None:
    done = run(machine, "--interfaces-only")
    assert done.returncode == 1
    assert "## version: NOT as expected" in done.stdout
    assert "No module named 'tensorrt_llm'" in done.stdout


@dataclass
class BuiltHere(Engines):
    """Builds without the command's process, whose Triton would not have the stand-in backend."""

    checkpoint: Path
    cache: Path

    def build(self, size: str, *more: str) -> Artifact:
        lookahead = LookaheadConfig.parse(more[1]) if more else None
        profile = self.profile(size).with_limits(lookahead=lookahead)
        return build(profile, self.checkpoint, Cache(self.cache), lambda _: None)


def test_the_engine_probes_serve_and_ask_the_engine(
    h100: Machine, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "BACKENDS", STANDIN / "backends")
    monkeypatch.setattr(acceptance, "TOKENS", 20)
    engines = BuiltHere("h100", h100.home, tiny_checkpoint, h100.cache)
    probes = {probe.name: probe for probe in engine_probes(engines)}
    assert set(probes) == {
        "smoke",
        "D above the engine's",
        "D below the engine's",
        "a request over the limit",
        *(f"speed of {size}" for size in ("1.5b", "7b", "32b")),
    }
    for name in ("D above the engine's", "a request over the limit", "speed of 7b"):
        result = answer(probes[name])
        assert result.verdict == "as expected", result.seen


def test_a_probe_that_raises_is_an_answer() -> None:
    def broken() -> str:
        raise RuntimeError("exit code 5: no")

    result = answer(Probe("engine", "build-engine", "works", broken, lambda seen: seen == "works"))
    assert result.verdict == "NOT as expected"
    assert "exit code 5: no" in report([result])


def test_a_command_is_judged_by_what_it_writes() -> None:
    assert answer(shell("echo", "echo 9", "9", r"^9$", "look")).verdict == "as expected"
    assert answer(shell("echo", "echo 8", "9", r"^9$", "look")).verdict == "NOT as expected"
    assert "exit code 3" in answer(shell("echo", "exit 3", "9", r"^9$", "look")).seen


def test_the_checklist_is_what_is_asked() -> None:
    page = (ROOT / "docs" / "gpu-checklist.md").read_text()
    assert checklist() in page, "python -m nimble_coder.commands.acceptance --checklist, into docs/gpu-checklist.md"
