"""Streams are measured while all of them are busy, and nothing is left running behind a measurement."""

import pytest

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.bench.checkpoint_engine import EMBEDDED_MODEL, checkpoint_engine
from nimble_coder.bench.streams import requests_for, throughput
from nimble_coder.engine.torch_engine import TorchEngineOptions


@pytest.mark.parametrize("count", [1, 3])
def test_a_measurement_ends_with_nothing_running(count: int) -> None:
    config = LookaheadConfig(4, 3, 4)
    with checkpoint_engine(EMBEDDED_MODEL, "fp32", [PLAIN, config], TorchEngineOptions(threads=1)) as engine:
        requests = requests_for([[1, 2, 3, 4], [5, 6, 7, 8]], count, config, max_tokens=6)
        assert throughput(engine, requests, count) > 0
        seen = engine.statistics()
        assert (seen.active_requests, seen.waiting_requests) == (0, 0)
        assert seen.generated_tokens > 6 * count  # streams asked again
