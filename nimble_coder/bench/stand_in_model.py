"""The stand-in engine as a Triton model; copied into the benchmark's repository, configured by its environment."""

import json
import os
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from nimble_coder.bench.stand_in import StandInEngine
from nimble_coder.text.tokenizer import TextTokenizer
from nimble_coder.triton.bridge import Bridge

TEXT = "for item in items:\n    total += item.price * item.count\n"


class TritonPythonModel:
    """What `backends/tensorrtllm` is, with another engine."""

    def initialize(self, args: dict[str, str]) -> None:
        """Makes the engine."""
        parameters = json.loads(args["model_config"])["parameters"]
        tokenizer = TextTokenizer(Path(parameters["tokenizer_dir"]["string_value"]))
        engine = StandInEngine(
            tokenizer.encode(TEXT),
            tokens_per_step=int(os.environ["NIMBLE_BENCH_TOKENS_PER_STEP"]),
            interval=float(os.environ["NIMBLE_BENCH_INTERVAL"]),
        )
        self._bridge = Bridge(engine, pb_utils, exclude_input=True, cancel_check_seconds=0.05)

    def execute(self, requests: list[Any]) -> None:
        """Takes requests and returns at once."""
        for request in requests:
            self._bridge.take(request)

    def finalize(self) -> None:
        """Ends the bridge's threads."""
        self._bridge.close()
