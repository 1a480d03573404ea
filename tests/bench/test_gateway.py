"""The gateway's benchmark runs, and what it stands on keeps its promises."""

import subprocess
import sys

import pytest

from nimble_coder.bench.stand_in import StandInEngine
from nimble_coder.engine.protocol import Request


@pytest.mark.timeout(120)
def test_the_benchmark_measures_every_front() -> None:
    sizes = ["--streams", "2", "--rounds", "1", "--tokens-per-step", "3", "--max-tokens", "12"]
    command = [sys.executable, "-m", "nimble_coder.bench.gateway", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, env=None)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(front in done.stdout for front in ("gate", "ense", "usual"))
    assert "to the first token of a lone stream" in done.stdout


def test_the_stand_in_gives_as_many_tokens_as_asked_at_its_pace() -> None:
    engine = StandInEngine([1, 2, 3, 4], tokens_per_step=3, interval=0.0)
    first, second = engine.enqueue(Request([9], 7)), engine.enqueue(Request([9], 2))
    sizes: dict[int, list[int]] = {first: [], second: []}
    finished: set[int] = set()
    while len(finished) < 2:
        for response in engine.responses(0.1):
            sizes[response.request_id].append(len(response.token_ids))
            if response.is_final:
                finished.add(response.request_id)
    assert sizes == {first: [3, 3, 1], second: [2]}
    assert engine.responses(0.0) == []


def test_the_stand_in_forgets_what_is_cancelled() -> None:
    engine = StandInEngine([1], tokens_per_step=1, interval=0.0)
    engine.cancel(engine.enqueue(Request([9], 1000)))
    assert engine.responses(0.0) == []
