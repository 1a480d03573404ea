"""Stands in for the C++ backend: refuses at load what it refuses, and generates a sequence that is easy to foretell.

Load checks: inflight_batcher_llm/src/model_instance_state.cc of tensorrtllm_backend v0.19.0. It runs the engines that
the stand-in for trtllm-build writes, behind the project's own bridge to Triton.
"""

import json
import os
import queue
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from build_engine.lookahead import PLAIN, LookaheadConfig, LookaheadError
from nimble_coder.contract.request import Guide, Request, RequestError
from nimble_coder.contract.response import FinishReason, PerfMetrics, Response
from nimble_coder.engine.protocol import Statistics
from nimble_coder.triton.bridge import Bridge

NEEDED = (
    "gpt_model_type",
    "gpt_model_path",
    "tokenizer_dir",
    "xgrammar_tokenizer_info_path",
    "guided_decoding_backend",
)
LOOKAHEAD = ("lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size")


def load(parameters: dict[str, str]) -> LookaheadConfig:
    """The engine's largest (W, N, G); raises what the C++ backend says."""
    for name in NEEDED:
        if name not in parameters:
            raise RuntimeError(f"Cannot find parameter with name: {name}")
    if left := [name for name, value in parameters.items() if "${" in value]:
        raise RuntimeError(f"placeholders left in {left}")
    engine = Path(parameters["gpt_model_path"])
    config = json.loads((engine / "config.json").read_text())
    for rank in range(config["pretrained_config"]["mapping"]["world_size"]):
        if not (engine / f"rank{rank}.engine").read_bytes().startswith(b"ptrt"):
            raise RuntimeError(f"cannot deserialize rank{rank}.engine")
    build = config["build_config"]
    if parameters.get("decoding_mode") != "lookahead":
        if build["speculative_decoding_mode"] != 1:
            raise RuntimeError("Lookahead decoding config must be provided")
        return PLAIN
    if any(name not in parameters for name in LOOKAHEAD):
        raise RuntimeError("Decoding mode is set to lookahead but lookahead parameters are not specified.")
    lookahead = LookaheadConfig(*(int(parameters[name]) for name in LOOKAHEAD))
    if lookahead.max_draft_tokens != build["max_draft_len"] or build["speculative_decoding_mode"] != 8:
        raise RuntimeError(f"{lookahead.tokens_per_step} != {build['max_draft_len'] + 1}")
    return lookahead


class Engine:
    """Token t is followed by (5 t + 1) mod 200, as in the tiny checkpoint of tests/standin/machine.py; a step with
    lookahead gives three of them. One request beyond the engine's (W,N,G) ends every other one, as in TensorRT-LLM.

    STANDIN_ENGINE: `slow` makes lookahead steps long and accepts no draft, `wrong` makes them give other tokens,
    `crash` makes them fail.
    """

    def __init__(self, lookahead: LookaheadConfig) -> None:
        self._lookahead, self._ids = lookahead, count(1)
        self._answers: queue.SimpleQueue[Response] = queue.SimpleQueue()
        self._fault = os.environ.get("STANDIN_ENGINE")
        self._failed_until = 0

    def enqueue(self, request: Request) -> int:
        engine_id = next(self._ids)
        try:
            (request.lookahead or PLAIN).check_within(self._lookahead)
        except LookaheadError:
            self._failed_until = engine_id
        threading.Thread(target=self._run, args=(engine_id, request), daemon=True).start()
        return engine_id

    def prepare(self, guide: Guide) -> None:
        raise RequestError("guided decoding is not supported by this engine")

    def _run(self, engine_id: int, request: Request) -> None:
        drafting = not (request.lookahead or self._lookahead).is_plain
        token, done, accepted = request.input_ids[-1], 0, 0
        while done < request.max_tokens:
            # However busy the machine is, three tokens a step are faster than one, and one a longer step is slower.
            time.sleep(0.01 if drafting and self._fault == "slow" else 0.004)
            step = []
            width = 3 if drafting and done and self._fault != "slow" else 1
            for _ in range(min(width, request.max_tokens - done)):
                token = (5 * token + 1) % 200
                step.append(token)
            if drafting and self._fault == "wrong" and done > 100:
                token = step[-1] = 199 - step[-1]
            accepted += len(step) - 1
            done += len(step)
            if engine_id <= self._failed_until or (drafting and self._fault == "crash" and done > 50):
                self._answers.put(Response(engine_id, [], error="Encountered an error in forwardAsync function"))
                return
            last = done == request.max_tokens
            now = time.monotonic_ns()
            metrics = PerfMetrics(now, now, now, now, accepted, 3 * accepted, 0, 0) if last else None
            self._answers.put(Response(engine_id, step, FinishReason.LENGTH if last else None, metrics))

    def responses(self, timeout: float) -> list[Response]:
        try:
            return [self._answers.get(timeout=timeout)]
        except queue.Empty:
            return []

    def cancel(self, request_id: int) -> None:
        pass

    def statistics(self) -> Statistics:
        raise NotImplementedError  # the bridge asks for none

    def shutdown(self) -> None:
        pass


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._bridge = Bridge(Engine(load(parameters)), pb_utils, exclude_input=True, cancel_check_seconds=0.1)

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            self._bridge.take(request)

    def finalize(self) -> None:
        self._bridge.close()
