"""The gateway's benchmark runs, and what it stands on keeps its promises."""

import subprocess
import sys

import pytest

from nimble_coder.bench.gateway import Cell, Measured, Sample, targets
from nimble_coder.bench.sse_load import LoadResult, StreamResult
from nimble_coder.bench.stand_in import StandInEngine
from nimble_coder.contract.request import Request


@pytest.mark.timeout(120)
def test_the_benchmark_measures_every_front() -> None:
    sizes = ["--streams", "2", "--rounds", "1", "--tokens-per-step", "3", "--max-tokens", "12"]
    command = [sys.executable, "-m", "nimble_coder.bench.gateway", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, env=None)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(front in done.stdout for front in ("gate", "ense", "usual"))
    assert "to the first token of a lone stream" in done.stdout
    assert "TTFT added" in done.stdout


def measured(speeds: dict[str, float], errors: int, cpu: float, first: float) -> Measured:
    """One run of a second at 64 and at 256 streams."""

    def cell(tokens: float) -> Cell:
        streams = [StreamResult(status=200, events=1)] * 2 + [StreamResult(status=500)] * errors
        return Cell([Sample(LoadResult(1.0, 0.1, streams), int(tokens), 1000, cpu, 0.1)])

    cells = {name: cell(speed) for name, speed in speeds.items()}
    return Measured({64: cells, 256: cells}, first)


def test_every_target_is_said_to_be_met_or_missed() -> None:
    good = measured({"gateway": 3000, "ensemble": 2300, "usual": 2000}, errors=0, cpu=0.1, first=0.0029)
    bad = measured({"gateway": 3000, "ensemble": 2400, "usual": 2100}, errors=1, cpu=0.11, first=0.0031)
    assert all(target.is_met for target in targets({1: good, 3: good}))
    found = targets({1: bad, 3: bad})
    assert len(found) == 10
    assert [target.what for target in found if target.is_met] == ["64 streams, 1 a message, over ensemble"]


def test_the_stand_in_gives_as_many_tokens_as_asked_at_its_pace() -> None:
    engine = StandInEngine([1, 2, 3, 4], tokens_per_step=3, interval=0.0)
    first, second = engine.enqueue(Request([9], 7)), engine.enqueue(Request([9], 2))
    sizes: dict[int, list[int]] = {first: [], second: []}
    tokens: list[int] = []
    finished: set[int] = set()
    while len(finished) < 2:
        for response in engine.responses(0.1):
            sizes[response.request_id].append(len(response.token_ids))
            tokens += response.token_ids if response.request_id == first else []
            if response.is_final:
                finished.add(response.request_id)
    assert sizes == {first: [3, 3, 1], second: [2]}
    assert tokens == [1, 2, 3, 4, 1, 2, 3]
    assert engine.statistics().request_steps == 4
    assert engine.responses(0.0) == []


def test_the_stand_in_forgets_what_is_cancelled() -> None:
    engine = StandInEngine([1], tokens_per_step=1, interval=0.0)
    engine.cancel(engine.enqueue(Request([9], 1000)))
    assert engine.responses(0.0) == []
