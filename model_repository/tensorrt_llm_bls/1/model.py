"""Text in, text out, streamed: one request calls the other models for its whole life."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton_python_backend_utils as pb_utils

from nimble_coder.triton.bls import Calls, TextRequest
from nimble_coder.triton.thread_pool import submit


class TritonPythonModel:
    """Tensor names and shapes as in tensorrtllm_backend v0.19.0."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._accumulate = parameters["accumulate_tokens"].lower() == "true"
        self._calls = Calls(pb_utils, parameters["tensorrt_llm_model_name"])
        # A thread does nothing but wait for other models; one a request that the engine runs at once.
        self._threads = ThreadPoolExecutor(config["max_batch_size"])
        self._threads.submit(int).result()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            submit(self._threads, TextRequest(request, pb_utils, self._calls, self._accumulate).run)

    def finalize(self) -> None:
        self._threads.shutdown(cancel_futures=True)
