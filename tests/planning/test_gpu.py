"""The model of steps on GPUs holds to what was measured on one, and proposes what its figures say."""

import re
from math import sqrt
from pathlib import Path

import pytest

from build_engine.catalog import SHAPES
from build_engine.hardware import GPU_TYPES
from build_engine.lookahead import PLAIN
from nimble_coder.planning.gpu import AT_ONCE, GAINS, GpuSteps, proposal, read_weights

DOCS = Path(__file__).parents[2] / "docs"


def measured_steps(gpu: str) -> dict[tuple[str, int], float]:
    """Seconds by shape and rows: the first row's, times the ratios, which have more digits."""
    page = (DOCS / "gpu-benchmarks.md").read_text(encoding="utf-8")
    lines = page.split("## Steps over reading their weights")[1].split("```")[0].split(f"On the {gpu.upper()}")[1]
    lines = re.split(r"^On the H", lines, flags=re.M)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| \d.*\|$", lines, re.M)]
    found: dict[tuple[str, int], float] = {}
    for i, shape in enumerate(("0.5b", "1.5b", "7b")):
        first = float(rows[0][2 + 3 * i]) / 1e3
        found |= {(shape, int(row[0])): first * float(row[4 + 3 * i].rstrip("x")) for row in rows}
    return found


@pytest.mark.parametrize(("gpu", "most", "mean"), [("h200", 0.07, 0.037), ("h100", 0.16, 0.10)])
def test_steps_are_those_that_the_page_measured(gpu: str, most: float, mean: float) -> None:
    """The model has its constants from the H200; the H100 was measured after it."""
    errors = [
        GpuSteps(GPU_TYPES[gpu], SHAPES[shape]).seconds(rows) / seconds - 1
        for (shape, rows), seconds in measured_steps(gpu).items()
    ]
    assert len(errors) == 18
    assert max(map(abs, errors)) < most
    assert sqrt(sum(error**2 for error in errors) / len(errors)) < mean


def test_the_weights_that_a_step_reads_are_those_that_the_models_are_named_for() -> None:
    assert read_weights(SHAPES["0.5b"]) == pytest.approx(0.494e9, rel=1e-3)
    assert read_weights(SHAPES["7b"]) == pytest.approx(7.07e9, rel=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gpu", GPU_TYPES)
def test_the_more_requests_run_at_once_the_fewer_drafts_are_proposed(gpu: str, shape: str) -> None:
    steps = GpuSteps(GPU_TYPES[gpu], SHAPES[shape])
    drafts = [steps.proposed(load).max_draft_tokens for load in AT_ONCE]
    assert drafts == sorted(drafts, reverse=True)
    assert drafts[0] > 0
    for load in AT_ONCE:
        best = max(steps.speed_up(gain, load) for gain in GAINS.values())
        assert steps.speed_up(GAINS[steps.proposed(load)], load) == best >= steps.speed_up(GAINS[PLAIN], load) == 1


def test_a_gpu_that_waits_longer_for_its_memory_gains_more() -> None:
    largest = max(GAINS.values(), key=lambda gain: gain.rows)
    h100, h200 = (GpuSteps(GPU_TYPES[name], SHAPES["7b"]).speed_up(largest) for name in ("h100", "h200"))
    assert h100 > h200


def test_a_proposal_names_every_load() -> None:
    told = proposal(GPU_TYPES["a10g"], SHAPES["7b"])
    assert re.fullmatch(r"\(\d+,\d+,\d+\) for 1( to \d+)?(, .+ for \d+( to \d+)?)*, .+ from \d+ on", told), told
