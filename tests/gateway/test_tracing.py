"""Traces reach a collector with numbers and without texts, as parts of the caller's trace."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc as triton_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from build_engine.artifact import Artifact
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.triton import Addresses
from tests.gateway.conftest import wait_until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
SECRET = "very_secret_identifier"


class Collector:
    """An OpenTelemetry collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever).start()

    @property
    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        scopes = [s for request in requests for resource in request.resource_spans for s in resource.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    def find(self, name: str) -> Any:
        assert wait_until(lambda: any(span.name == name for span in self.spans))
        return next(span for span in self.spans if span.name == name)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


def ignore(result: object, error: object) -> None:
    """Nothing comes on a stream without requests."""


def gateway_to(endpoint: str, artifact: Artifact, gateway: Serving, log: Path) -> GatewayProcesses:
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    triton = gateway.triton.addresses
    return GatewayProcesses(artifact.directory, triton, Addresses.free(), log=log, settings=settings)


def test_requests_are_spans_of_the_callers_trace(
    artifact: Artifact, gateway: Serving, collector: Collector, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server.server_port}"
    with gateway_to(endpoint, artifact, gateway, tmp_path / "log") as g:
        g.wait_ready()
        body = {"prompt": f"def {SECRET}(self):\n    ", "max_tokens": 8, "ignore_eos": True}
        httpx.post(f"{g.addresses.http}/v1/completions", json=body, headers={**PARENT, "x-request-id": "mine"})
        httpx.post(f"{g.addresses.http}/infill", json={"input_prefix": []})
        httpx.get(f"{g.addresses.http}/v1/models")
        with triton_grpc.InferenceServerClient(g.addresses.grpc) as client:
            client.start_stream(ignore, headers=PARENT)
            client.stop_stream()
        span = collector.find("POST /v1/completions")
        refused = collector.find("POST /infill")
        stream = collector.find("inference.GRPCInferenceService/ModelStreamInfer")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert stream.trace_id.hex() == TRACE
    assert refused.trace_id.hex() != TRACE
    attributes = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
    assert attributes["http.response.status_code"] == 200
    assert attributes["nimble.request_id"] == "mine"
    assert attributes["gen_ai.usage.output_tokens"] == 8
    assert 0 < attributes["nimble.time_to_first_token"] < (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    assert not any(span.name.endswith("/v1/models") for span in collector.spans)
    assert not any(SECRET.encode() in body for body in collector.bodies)
    assert any(b"nimble-coder" in body for body in collector.bodies)


def test_a_collector_that_is_not_there_harms_nobody(artifact: Artifact, gateway: Serving, tmp_path: Path) -> None:
    with gateway_to("http://127.0.0.1:1", artifact, gateway, tmp_path / "log") as g:
        g.wait_ready()
        for _ in range(3):
            answer = httpx.post(f"{g.addresses.http}/v1/completions", json={"prompt": "import os", "max_tokens": 1})
            assert answer.status_code == 200
        g.stop()
    assert g.processes[0].poll() == 0  # it ended by itself, without waiting for the collector until it was killed
