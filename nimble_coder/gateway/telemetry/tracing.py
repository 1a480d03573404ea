"""A span for every request that runs the model, sent to an OpenTelemetry collector where an endpoint is set.

Attributes are OpenTelemetry's semantic conventions (HTTP, RPC, generative AI); numbers only, no prompts and no answers.
The exporter reads OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_*.
"""

from collections.abc import Mapping
from typing import Any

Attributes = Mapping[str, str | int | float]


class Tracing:
    """Where spans go; nowhere unless it is enabled."""

    def __init__(self, service_name: str, is_enabled: bool) -> None:
        """Raises `ValueError` where it is enabled and OpenTelemetry is not installed."""
        self._provider: Any = None
        if not is_enabled:
            return
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            text = "an OpenTelemetry endpoint is set, OpenTelemetry is not installed: pip install"
            raise ValueError(f"{text} 'nimble-coder[telemetry]', or unset OTEL_EXPORTER_OTLP_ENDPOINT") from None
        self._provider = TracerProvider(resource=Resource.create({"service.name": service_name}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("nimble_coder.gateway")
        self._parent = TraceContextTextMapPropagator()

    def record(
        self, name: str, started: int, headers: Mapping[str, str], attributes: Attributes, failed: bool = False
    ) -> None:
        """A request that has just ended. `started` is in nanoseconds since the epoch; `headers` may hold W3C's
        `traceparent`, whose span is this one's parent then."""
        if self._provider is None:
            return
        from opentelemetry.trace import SpanKind, StatusCode

        parent = self._parent.extract(headers)
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes, start_time=started)
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Sends what is left."""
        if self._provider is not None:
            self._provider.shutdown()
