"""The stand-in engine as a Triton model; copied into the benchmark's repository, configured by its environment."""

import json
import os
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from nimble_coder.bench.stand_in import StandInEngine
from nimble_coder.text.tokenizer import TextTokenizer
from nimble_coder.triton.bridge import Bridge
from nimble_coder.triton.metrics import MetricsReporter

TEXT = "for item in items:\n    total += item.price * item.count\n"


class TritonPythonModel:
    """What `backends/tensorrtllm` is, with another engine."""

    def initialize(self, args: dict[str, str]) -> None:
        """Makes the engine."""
        parameters = json.loads(args["model_config"])["parameters"]
        tokenizer = TextTokenizer(Path(parameters["tokenizer_dir"]["string_value"]))
        engine = self.engine(tokenizer.encode(os.environb.get(b"NIMBLE_BENCH_TEXT", TEXT.encode()).decode()))
        period = int(parameters["cancellation_check_period_ms"]["string_value"]) / 1000
        self._bridge = Bridge(engine, pb_utils, exclude_input=True, cancel_check_seconds=period)
        seconds = int(parameters["stats_check_period_ms"]["string_value"]) / 1000
        self._metrics = MetricsReporter(engine, pb_utils, args["model_name"], args["model_version"], seconds)

    def engine(self, token_ids: list[int]) -> StandInEngine:
        """One that writes these tokens, in turn and for ever."""
        return StandInEngine(
            token_ids,
            tokens_per_step=int(os.environ["NIMBLE_BENCH_TOKENS_PER_STEP"]),
            interval=float(os.environ["NIMBLE_BENCH_INTERVAL"]),
        )

    def execute(self, requests: list[Any]) -> None:
        """Takes requests and returns at once."""
        for request in requests:
            self._bridge.take(request)

    def finalize(self) -> None:
        """Ends the threads."""
        self._metrics.close()
        self._bridge.close()
