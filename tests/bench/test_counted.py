"""Counted steps are the engine's own, and go by the step times that are given."""

import pytest

from build_engine.lookahead import PLAIN
from nimble_coder.bench.checkpoint_engine import EMBEDDED_MODEL, checkpoint_engine
from nimble_coder.bench.counted import OtherSteps, count
from nimble_coder.bench.load.drafting import Drafting
from nimble_coder.bench.replayed import step_times
from nimble_coder.engine.torch_engine import TorchEngineOptions

PROMPT = [300 + i % 7 for i in range(40)]


def test_an_engine_drafts_what_is_worth_its_rows_on_the_other_machine() -> None:
    found = {}
    for name, times in {"free": ["1:1", "64:1"], "dear": ["1:1", "64:64"]}.items():
        costs = OtherSteps(step_times(times))
        options = TorchEngineOptions(threads=1, device="cpu", step_costs=costs)
        with checkpoint_engine(EMBEDDED_MODEL, "bf16", [PLAIN], options) as engine:
            found[name] = count(engine, costs, [PROMPT], Drafting.parse("windowed"), 48)
    assert found["free"].outputs == found["dear"].outputs
    assert len(found["free"].rows) < len(found["dear"].rows)
    assert sum(found["dear"].rows) < sum(found["free"].rows)
    assert found["free"].seconds == pytest.approx(len(found["free"].rows) / 1e3)


def test_requests_at_once_share_the_steps_and_have_the_same_outputs() -> None:
    prompts, way = [PROMPT, PROMPT[3:], PROMPT[:20]], Drafting.parse("windowed")
    costs = OtherSteps(step_times(["1:1", "64:8"]))
    with checkpoint_engine(
        EMBEDDED_MODEL, "bf16", [PLAIN], TorchEngineOptions(threads=1, device="cpu", step_costs=costs)
    ) as engine:
        alone, shared = (count(engine, costs, prompts, way, 48, at_once) for at_once in (1, 2))
    assert shared.outputs == alone.outputs
    assert len(shared.rows) < 0.8 * len(alone.rows)
