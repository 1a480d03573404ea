"""Runs requests on an engine to their ends: for benchmarks, verification and tests, where nobody reads a stream."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nimble_coder.contract.request import Request
from nimble_coder.contract.response import FinishReason, PerfMetrics
from nimble_coder.engine.protocol import Engine


@dataclass
class Generation:
    """Everything one request brought."""

    token_ids: list[int] = field(default_factory=list)
    chunks: list[list[int]] = field(default_factory=list)
    """The tokens of each response, in order."""
    finish_reason: FinishReason | None = None
    metrics: PerfMetrics | None = None
    log_probs: list[float] = field(default_factory=list)
    error: str | None = None

    @property
    def decode_seconds(self) -> float:
        """From the first token to the last."""
        m = self.metrics
        return (m.last_token_time_ns - m.first_token_time_ns) / 1e9 if m else 0.0

    @property
    def tokens_per_step(self) -> float:
        """Tokens per decoding step; the first token comes from the prompt, not from a step."""
        decoded = len(self.token_ids) - 1
        steps = decoded - (self.metrics.total_accepted_draft_tokens if self.metrics else 0)
        return decoded / steps if steps > 0 else 1.0


def generate(engine: Engine, requests: Sequence[Request]) -> list[Generation]:
    """Runs the requests together and returns their generations in order. Nobody else may read this engine's
    responses meanwhile."""
    order = [engine.enqueue(request) for request in requests]
    generations = {request_id: Generation() for request_id in order}
    open_ids = set(order)
    while open_ids:
        for response in engine.responses(timeout=1.0):
            generation = generations.get(response.request_id)
            if generation is None:
                continue  # cancelled by an earlier caller, ended only now
            generation.token_ids += response.token_ids
            generation.chunks.append(response.token_ids)
            generation.log_probs += response.log_probs or []
            if response.is_final:
                generation.finish_reason, generation.error = response.finish_reason, response.error
                generation.metrics = response.metrics
                open_ids.discard(response.request_id)
    return [generations[request_id] for request_id in order]
