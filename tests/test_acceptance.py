"""The acceptance script on stand-ins: it asks everything, stops at nothing, and its report says what was seen."""

import subprocess
from pathlib import Path

from nimble_coder.acceptance import Probe, answer, interface_probes, report, shell
from tests.standin.machine import ROOT, Machine

SCRIPT = ROOT / "scripts" / "gpu-acceptance"


def run(machine: Machine, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [SCRIPT, *arguments], capture_output=True, text=True, cwd=machine.home, check=False, timeout=120
    )


def test_every_interface_that_the_build_stage_uses_is_asked_for(h100: Machine) -> None:
    """The stand-ins have the recorded interfaces, so these probes pass; what is no interface of theirs does not."""
    results = {probe.name: answer(probe).verdict for probe in interface_probes() if probe.name != "library"}
    assert {name for name, verdict in results.items() if verdict == "as expected"} == {
        "version",
        "flags",
        "signature of QWenForCausalLM.from_hugging_face",
        "signature of QWenForCausalLM.save_checkpoint",
        "signature of quantize_and_export",
    }


def test_the_script_writes_a_report_and_fails_where_something_is_not_as_expected(machine: Machine) -> None:
    done = run(machine, "--interfaces-only", "--report", str(machine.home / "report.md"))
    assert done.returncode == 1
    text = (machine.home / "report.md").read_text()
    assert "## version: NOT as expected" in text
    assert "No module named 'tensorrt_llm'" in text


def test_a_probe_that_raises_is_an_answer() -> None:
    def broken() -> str:
        raise RuntimeError("exit code 5: no")

    result = answer(Probe("engine", "works", broken, lambda seen: seen == "works"))
    assert result.verdict == "NOT as expected"
    assert "exit code 5: no" in report([result])


def test_a_command_is_judged_by_what_it_writes() -> None:
    assert answer(shell("echo", "echo 9", "9", r"^9$")).verdict == "as expected"
    assert answer(shell("echo", "echo 8", "9", r"^9$")).verdict == "NOT as expected"
    assert "exit code 3" in answer(shell("echo", "exit 3", "9", r"^9$")).seen


def test_the_checklist_names_every_probe() -> None:
    page = (ROOT / "docs" / "gpu-checklist.md").read_text()
    for words in ("version", "flags", "conversion", "saving", "quantisation", "calibration", "template", "library"):
        assert f"| {words} |" in page
    assert Path("scripts/gpu-acceptance").name in page
