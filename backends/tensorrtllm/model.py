"""The portable twin of NVIDIA's C++ `tensorrtllm` backend: same name, same tensors, the portable engine below.

Triton loads this file for every model whose configuration says `backend: "tensorrtllm"`.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.contract.fields import LOOKAHEAD
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.triton.bridge import Bridge
from nimble_coder.triton.metrics import MetricsReporter


class TritonPythonModel:
    """One engine behind Triton; the work is done by the engine and the bridge."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine that the model's configuration names."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        given = [int(parameters[name]) for name in LOOKAHEAD if name in parameters]
        lookahead = LookaheadConfig(*given) if given else PLAIN
        queue = config.get("dynamic_batching", {}).get("default_queue_policy", {}).get("max_queue_size", 0)
        options = TorchEngineOptions(
            tokenizer=Path(parameters["tokenizer_dir"]),
            reuse_kv_cache=parameters["enable_kv_cache_reuse"].lower() == "true",
            kv_cache_fraction=float(parameters["kv_cache_free_gpu_mem_fraction"]),
            max_queue_size=queue or TorchEngineOptions.max_queue_size,
            threads=int(os.environ["NIMBLE_ENGINE_THREADS"]) if "NIMBLE_ENGINE_THREADS" in os.environ else None,
            device=os.environ.get("NIMBLE_ENGINE_DEVICE", "auto"),
            drafts=Path(os.environ["NIMBLE_ENGINE_DRAFTS"]) if "NIMBLE_ENGINE_DRAFTS" in os.environ else None,
            max_seq_len=int(os.environ["NIMBLE_ENGINE_MAX_LEN"]) if "NIMBLE_ENGINE_MAX_LEN" in os.environ else None,
        )
        engine = TorchEngine(Path(parameters["gpt_model_path"]), lookahead, options)
        self._bridge = Bridge(
            engine,
            pb_utils,
            exclude_input=parameters["exclude_input_in_output"].lower() == "true",
            cancel_check_seconds=int(parameters["cancellation_check_period_ms"]) / 1000,
        )
        seconds = int(parameters["stats_check_period_ms"]) / 1000
        self._metrics = MetricsReporter(engine, pb_utils, args["model_name"], args["model_version"], seconds)

    def execute(self, requests: list[Any]) -> None:
        """Takes requests and returns at once; responses go out as tokens come."""
        for request in requests:
            self._bridge.take(request)

    def finalize(self) -> None:
        """Ends the engine; requests in flight get a final response."""
        self._metrics.close()
        self._bridge.close()
