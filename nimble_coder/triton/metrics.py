"""Publishes an engine's statistics as Triton metrics.

Names and labels of `nv_trt_llm_*` are those of tensorrtllm_backend v0.19.0 (custom_metrics_reporter.cc), so dashboards
made for it fit, and so does the endpoint picker of the Gateway API's inference extension (column "Triton
TensorRT-LLM" of its model server protocol); `nimble_*` is what it does not tell: tokens per decoding step.
"""

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from nimble_coder.contract.response import TOKENS_PER_BLOCK, USUAL_DRAFTER
from nimble_coder.engine.drafter import DRAFTERS
from nimble_coder.engine.protocol import SOURCES, Engine, Statistics

Read = Callable[[Statistics], float]


def drafting(source: str, total: str, statistics: Statistics) -> float:
    """A total of the drafts of one source."""
    return float(getattr(statistics.drafting[source], total))


def is_usual(drafter: str, statistics: Statistics) -> float:
    """1 for the drafter of requests that name none."""
    return float(drafter == statistics.usual_drafter)


GAUGES: dict[str, tuple[str, str, dict[str, Read]]] = {
    "nv_trt_llm_request_metrics": (
        "TRT LLM request metrics",
        "request_type",
        {
            "active": lambda s: s.active_requests,
            "scheduled": lambda s: s.active_requests,
            "waiting": lambda s: s.waiting_requests,
            "max": lambda s: s.max_requests,
        },
    ),
    "nv_trt_llm_general_metrics": (
        "General TRT LLM metrics",
        "general_type",
        {"iteration_counter": lambda s: s.iterations},
    ),
    "nv_trt_llm_kv_cache_block_metrics": (
        "TRT LLM KV cache block metrics",
        "kv_cache_block_type",
        {
            "max": lambda s: s.kv_tokens_max // TOKENS_PER_BLOCK,
            "used": lambda s: -(-s.kv_tokens_used // TOKENS_PER_BLOCK),
            "free": lambda s: (s.kv_tokens_max - s.kv_tokens_used) // TOKENS_PER_BLOCK,
            "tokens_per": lambda _: TOKENS_PER_BLOCK,
            "fraction": lambda s: s.kv_tokens_used / s.kv_tokens_max if s.kv_tokens_max else 0.0,
        },
    ),
    "nimble_kv_cache_tokens": (
        "KV cache entries in use, and the most there can be",
        "kind",
        {"used": lambda s: s.kv_tokens_used, "max": lambda s: s.kv_tokens_max},
    ),
    "nimble_prompt_tokens": (
        "Prompt tokens since the start of the engine, and those of them whose KV entries were there already",
        "kind",
        {"total": lambda s: s.prompt_tokens, "reused": lambda s: s.reused_prompt_tokens},
    ),
    **{
        f"nimble_drafting_{total}": (
            f"{meaning} since the start of the engine, by what proposed the draft tokens",
            "source",
            {source: partial(drafting, source, total) for source in SOURCES},
        )
        for total, meaning in {
            "steps": "Steps of requests with draft tokens",
            "drafted": "Draft tokens",
            "accepted": "Accepted draft tokens",
            "seconds": "Seconds of such steps, by the requests' shares of their rows",
        }.items()
    },
    USUAL_DRAFTER: (
        "1 for the drafter of requests that name none, 0 for the others",
        "drafter",
        {drafter: partial(is_usual, drafter) for drafter in DRAFTERS},
    ),
    "nimble_lookahead_totals": (
        "Totals since the start of the engine; tokens per step = 1 + accepted / request_steps",
        "kind",
        {
            "generated_tokens": lambda s: s.generated_tokens,
            "accepted_draft_tokens": lambda s: s.accepted_draft_tokens,
            "draft_tokens": lambda s: s.draft_tokens,
            "request_steps": lambda s: s.request_steps,
            "step_seconds": lambda s: s.step_seconds,
        },
    ),
}


class MetricsReporter:
    """Sets the gauges from the engine's statistics at once and then every so many seconds, on a thread of its own."""

    def __init__(self, engine: Engine, pb_utils: Any, model: str, version: str, seconds: float) -> None:
        self._engine = engine
        self._seconds = seconds
        self._families: list[Any] = []  # a metric dies with its family
        self._gauges: list[tuple[Any, Read]] = []
        for name, (description, label, reads) in GAUGES.items():
            family = pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.GAUGE)
            self._families.append(family)
            for kind, read in reads.items():
                labels = {"model": model, "version": version, label: kind}
                self._gauges.append((family.Metric(labels=labels), read))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and lets the metrics go: one that outlives the model crashes Triton's stub (2.51)."""
        self._stopping.set()
        self._thread.join()
        self._gauges.clear()
        self._families.clear()

    def _report(self) -> None:
        # Triton's `set` holds the interpreter's lock until Triton has answered: one that is gone never does.
        triton = os.getppid()
        while os.getppid() == triton:
            statistics = self._engine.statistics()
            for gauge, read in self._gauges:
                gauge.set(read(statistics))
            if self._stopping.wait(self._seconds):
                return
