"""The gateway's metrics, under the names NIM 1.x publishes where it has one, so that its dashboards fit.

Per request, not per token: what a stream costs while it runs is its own tokens and nothing else.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from nimble_coder.gateway.answers.transcript import Transcript

LATENCY = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
PER_TOKEN = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
STEPS = (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5, 6, 8)
RESERVED = 256 << 10
"""Bytes of each file of a worker's metrics; a series takes some 200."""
MOST_KEYS, OTHER_KEYS = 4096, "other"
"""API keys that are counted one by one in a process, and how the rest of them is called together."""
OF_A_KEY = 640
"""Bytes of a key's three series."""
FILES = ("counter", "histogram", "gauge_livemin", "gauge_livesum")
"""How prometheus_client calls them."""


class GatewayMetrics:
    """Counters and histograms of one process; with several workers their files hold them all."""

    def __init__(self, workers_directory: Path | None = None, per_key: bool = False) -> None:
        self._directory = workers_directory
        self._keys = set[str]()
        if workers_directory is not None:
            reserve(workers_directory, per_key)
        own = self._registry = CollectorRegistry()
        self.ready = Gauge(
            "nimble_ready", "1 while the service is ready, 0 otherwise", registry=own, multiprocess_mode="livemin"
        )
        self.running = Gauge("num_requests_running", "Generations in flight", registry=own, multiprocess_mode="livesum")
        self.requests = Counter(
            "nimble_http_requests", "Requests by route and status", ["route", "status"], registry=own
        )
        self.grpc_requests = Counter(
            "nimble_grpc_requests", "Calls by method and status", ["method", "status"], registry=own
        )
        self.errors = Counter(
            "nimble_errors", "Requests refused or failed, by the error's code", ["code"], registry=own
        )
        self.unreadable_keys = Counter(
            "nimble_api_keys_unreadable", "Versions of the keys file that could not be read", registry=own
        )
        self.certificate_ends = Gauge(
            "nimble_certificate_not_after_seconds",
            "When the TLS certificate ends to be valid, in seconds since 1970; 0 without TLS",
            registry=own,
            multiprocess_mode="livemin",
        )
        self.certificate_unusable = Gauge(
            "nimble_certificate_files_unusable",
            "Processes that show an older TLS certificate because the files cannot be used",
            registry=own,
            multiprocess_mode="livesum",
        )
        self.finished = Counter("request_finish", "Generations by the reason they ended", ["reason"], registry=own)
        self.cancelled = Counter("nimble_requests_cancelled", "Generations whose client went away", registry=own)
        self.prompt_tokens = Counter("prompt_tokens", "Prompt tokens", registry=own)
        self.generation_tokens = Counter("generation_tokens", "Generated tokens", registry=own)
        self.accepted = Counter("nimble_accepted_draft_tokens", "Draft tokens accepted", registry=own)
        self.drafts = Counter("nimble_draft_tokens", "Draft tokens that could have been accepted", registry=own)
        self.first = Histogram("time_to_first_token_seconds", "TTFT", registry=own, buckets=LATENCY)
        self.per_token = Histogram("time_per_output_token_seconds", "ITL, mean", registry=own, buckets=PER_TOKEN)
        self.whole = Histogram("e2e_request_latency_seconds", "Whole generation", registry=own, buckets=LATENCY)
        self.prompt_length = Histogram("request_prompt_tokens", "Prompt length", registry=own, buckets=TOKENS)
        self.length = Histogram("request_generation_tokens", "Answer length", registry=own, buckets=TOKENS)
        self.key_finished = Counter("nimble_key_requests", "Generations of an API key", ["key"], registry=own)
        self.key_tokens = Counter("nimble_key_tokens", "Tokens of an API key", ["key", "kind"], registry=own)
        self.per_step = Histogram("nimble_tokens_per_step", "Tokens per decoding step", registry=own, buckets=STEPS)

    def record(self, prompt_tokens: int, transcripts: Sequence[Transcript], key: str = "") -> None:
        """Adds a request that has ended, however it did; where its key has a name, to what the key has used too."""
        if key:
            key = self._counted(key)
            self.key_finished.labels(key).inc(len(transcripts))
            self.key_tokens.labels(key, "prompt").inc(prompt_tokens)
            self.key_tokens.labels(key, "generation").inc(sum(t.tokens for t in transcripts))
        self.prompt_tokens.inc(prompt_tokens)
        self.prompt_length.observe(prompt_tokens)
        for t in transcripts:
            self.finished.labels(t.finish_reason or "aborted").inc()
            if t.first_token is None:
                continue
            self.generation_tokens.inc(t.tokens)
            self.length.observe(t.tokens)
            self.first.observe(t.first_token - t.started)
            self.whole.observe(t.finished - t.started)
            if t.tokens > 1:
                self.per_token.observe((t.finished - t.first_token) / (t.tokens - 1))
            if t.draft_tokens:
                self.accepted.inc(t.accepted_draft_tokens)
                self.drafts.inc(t.draft_tokens)
                self.per_step.observe((t.tokens - 1) / max(t.tokens - 1 - t.accepted_draft_tokens, 1))

    def _counted(self, key: str) -> str:
        """What a key is counted under."""
        if len(self._keys) < MOST_KEYS:
            self._keys.add(key)
        return key if key in self._keys else OTHER_KEYS

    def page(self) -> bytes:
        """Prometheus text."""
        if self._directory is None:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._directory))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def reserve(directory: Path, per_key: bool) -> None:
    """Makes this worker's files with their room on the disk, since they are mapped: where the disk is full later, to
    write into them would end the process (SIGBUS). One that grows would be cut first."""
    for name in FILES:
        size = RESERVED + (MOST_KEYS + 1) * OF_A_KEY * (per_key and name == "counter")
        with (directory / f"{name}_{os.getpid()}.db").open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, size)
