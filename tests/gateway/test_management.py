"""NIM's management routes, the documentation, and errors of the HTTP layer."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import httpx
import pytest

from build_engine.artifact import Artifact
from build_engine.lookahead import LookaheadConfig
from nimble_coder.client.grpc import CompletionClient, CompletionError
from nimble_coder.gateway.apis.routes import ROUTES
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.triton import Addresses


@pytest.mark.parametrize("path", ["/v1/health/live", "/v1/health/ready", "/health", "/health/ready", "/health/live"])
def test_health(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.json()["object"] == "health.response"


def test_metadata_version_licence_and_manifest(http: httpx.Client, gateway: Serving) -> None:
    metadata = http.get("/v1/metadata").json()
    assert {"assetInfo", "licenseInfo", "modelInfo", "repository_override", "version"} <= set(metadata)
    assert set(metadata["licenseInfo"]) == {"name", "path", "sha", "size", "url", "type", "content"}
    assert "Apache License" in http.get("/v1/license").json()["content"]
    assert set(http.get("/v1/version").json()) >= {"release", "api"}
    manifest = json.loads(http.get("/v1/manifest").json()["manifest_file"])
    assert manifest["key"] == metadata["selectedModelProfileId"]
    assert http.get("/props").json()["default_generation_settings"]["n_ctx"] == 8192


def test_metrics_of_gateway_and_triton_are_on_one_page(http: httpx.Client, gateway: Serving) -> None:
    http.post("/v1/completions", json={"prompt": "import os\nimport ", "max_tokens": 24})
    http.post("/v1/completions", json={"prompt": ""})
    with CompletionClient(gateway.addresses.grpc) as client, pytest.raises(CompletionError, match="exceeds the engine"):
        client.complete("import os", 1, LookaheadConfig(9, 9, 9))
    names = {
        "the engine's requests": 'nv_inference_request_success{model="tensorrt_llm"',
        "those that wait": 'nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting"',
        "requests by route and status": 'nimble_http_requests_total{route="/v1/completions",status="200"}',
        "time to first token": 'time_to_first_token_seconds_bucket{le="0.1"}',
        "inter-token latency": 'time_per_output_token_seconds_bucket{le="0.01"}',
        "tokens per step": 'nimble_tokens_per_step_bucket{le="4.0"}',
        "acceptance": "nimble_accepted_draft_tokens_total",
        "what could have been accepted": "nimble_draft_tokens_total",
        "in flight": "num_requests_running",
        "clients that went away": "nimble_requests_cancelled_total",
        "errors by kind": 'nimble_errors_total{code="empty_prompt"}',
        "errors of gRPC calls": 'nimble_errors_total{code="lookahead_exceeds_engine"}',
    }
    pages = [http.get(path).text for path in ("/metrics", "/v1/metrics")]
    pages.append(httpx.get(gateway.addresses.metrics).text)
    for page in pages:
        assert [what for what, name in names.items() if name not in page] == []


def test_the_metrics_port_has_no_api(gateway: Serving) -> None:
    a = gateway.addresses
    answer = httpx.post(f"http://{a.host}:{a.metrics_port}/v1/completions", json={"prompt": "x"})
    assert answer.status_code == 404
    assert "/metrics, /v1/metrics, /v1/health/live, /v1/health/ready only" in answer.text


def test_the_openapi_document_has_every_route(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert "suffix" in document["components"]["schemas"]["CompletionRequest"]["properties"]
    page = http.get("/docs").text
    assert "/v1/fim/completions" in page
    assert "http" not in page.replace("httpx", "")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/chat/completions", "did you mean '/v1/chat/completions'?"),
        ("/v1/v1/completions", "did you mean '/v1/completions'?"),
        ("/v1/infill", "did you mean '/infill'?"),
        ("/v1/embeddings", "GET /docs lists what there is"),
    ],
)
def test_a_base_url_with_one_v1_too_few_or_too_many_is_told(http: httpx.Client, path: str, hint: str) -> None:
    answer = http.post(path, json={})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].endswith(hint)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "unknown_path"),
        ("GET", "/v1/completions", 405, "method"),
        ("DELETE", "/v1/models/demo", 405, "method"),
        ("GET", "/v1/models/other/model", 404, "model_not_found"),
    ],
)
def test_wrong_paths_and_methods_have_openai_errors(
    http: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert ("allow" in answer.headers) == (status == 405)


def test_bodies_that_are_no_json_or_too_large(http: httpx.Client) -> None:
    for body in (b"", b"{", b"[]", b'{"prompt": "\xff"}', b'{"prompt": 1}', b"\x00" * 10):
        assert http.post("/v1/completions", content=body).status_code == 400
    assert http.post("/v1/completions", content=b" " * (9 << 20)).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(9):
            yield b" " * (1 << 20)

    assert httpx.post(http.base_url.join("/v1/completions"), content=pieces()).status_code == 413
    # Python's own client says `connection: close`, and sends all of a body before it reads.
    with pytest.raises(HTTPError) as refused:
        urlopen(str(http.base_url.join("/v1/completions")), b" " * (9 << 20))
    with refused.value as answer:
        assert answer.code == 413


def test_request_ids_are_kept_or_made(http: httpx.Client) -> None:
    assert http.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert len(http.get("/health", headers={"x-request-id": "bad id"}).headers["x-request-id"]) == 24


def test_the_log_has_every_request_by_its_id_and_no_prompt_at_any_level(
    artifact: Artifact, gateway: Serving, tmp_path: Path
) -> None:
    secret, log = "very_secret_identifier", tmp_path / "log"
    triton, settings = gateway.triton.addresses, {"NIMBLE_LOG_LEVEL": "debug", "NIMBLE_API_KEYS": "the_key"}
    with GatewayProcesses(artifact.directory, triton, Addresses.free(), log=log, settings=settings) as g:
        g.wait_ready()
        key = {"x-api-key": "the_key"}
        with httpx.Client(base_url=g.addresses.http, timeout=30, headers=key) as http:
            body = {"prompt": secret, "max_tokens": 1}
            http.post("/v1/completions", json=body, headers={"x-request-id": "first"})
            http.post("/v1/completions", json={**body, "model": secret}, headers={"x-request-id": "second"})
            http.post("/v1/completions", json={**body, "suffix": secret, "lookahead": [99, 1, secret]})
            http.post("/v1/completions", content=b'{"prompt": "' + secret.encode() + b'"')
            http.post("/infill", json={"input_prefix": secret, "n_predict": 1, "stream": True})
            http.post("/v2/models/ensemble/generate", json={"text_input": secret, "max_tokens": secret})
            http.post("/v2/models/ensemble/generate_stream", json={"text_input": secret, "max_tokens": 1})
            http.get(f"/v1/models/{secret}?{secret}")
            http.get(f"/{secret}")
        with CompletionClient(g.addresses.grpc, "the_key") as client:
            client.complete(secret, 1)
            with pytest.raises(CompletionError):
                client.complete(secret, 1, LookaheadConfig(99, 99, 99))
    lines = log.read_text(errors="replace")
    assert "POST /v1/completions 200" in lines
    assert [name for name in ("first", "second") if f" ms {name}\n" not in lines] == []
    assert [word for word in (secret, "the_key") if word in lines] == []


@pytest.mark.parametrize(("level", "times"), [("info", 0), ("debug", 2)])
def test_probes_do_not_fill_the_log(
    artifact: Artifact, gateway: Serving, tmp_path: Path, level: str, times: int
) -> None:
    log, settings = tmp_path / "log", {"NIMBLE_LOG_LEVEL": level}
    with GatewayProcesses(
        artifact.directory, gateway.triton.addresses, Addresses.free(), log=log, settings=settings
    ) as g:
        g.wait_ready()
        for path in ("/v1/health/live", "/v1/health/ready", "/metrics", "/v2/health/ready"):
            assert httpx.get(f"{g.addresses.http}{path}", headers={"x-request-id": "a_probe"}).status_code == 200
        httpx.post(f"{g.addresses.http}/v1/completions", json={"prompt": "x", "max_tokens": 1}, timeout=30)
    lines = log.read_text()
    assert len(re.findall(r"GET /v1/health/\S+ 200 \S+ ms a_probe", lines)) == times
    assert ("GET /metrics" in lines) is (level == "debug")
    assert level == "debug" or "/health/" not in lines
    assert "POST /v1/completions 200" in lines


def test_the_manifest_is_told_though_the_artefact_is_gone(artifact: Artifact, gateway: Serving, tmp_path: Path) -> None:
    moved = tmp_path / "artifacts" / "copy"
    shutil.copytree(artifact.directory, moved)
    triton = gateway.triton.addresses
    with GatewayProcesses(moved, triton, Addresses.free(), log=tmp_path / "log") as g:
        g.wait_ready()
        expected = (moved / "manifest.json").read_text()
        shutil.rmtree(moved)
        answer = httpx.get(f"{g.addresses.http}/v1/manifest")
        assert (answer.status_code, next(iter(answer.json().values()))) == (200, expected)


def test_metrics_may_be_on_their_own_port_only(artifact: Artifact, gateway: Serving, tmp_path: Path) -> None:
    settings = {"NIMBLE_METRICS_ON_HTTP_PORT": "false"}
    triton = gateway.triton.addresses
    with GatewayProcesses(artifact.directory, triton, Addresses.free(), log=tmp_path / "log", settings=settings) as g:
        g.wait_ready()
        for path in ("/metrics", "/v1/metrics"):
            assert httpx.get(f"{g.addresses.http}{path}").status_code == 404
        assert "nimble_ready 1.0" in httpx.get(g.addresses.metrics).text


USER = [{"role": "user", "content": "x"}]
NESTED = {
    "a tool": (
        "/v1/chat/completions/render",
        {"messages": USER, "tools": [{"function": {"name": "f", "parameters": 7}}]},
    ),
    "a call": (
        "/v1/chat/completions/render",
        {"messages": [*USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 7}}]}]},
    ),
    "a schema": ("/v1/completions", {"prompt": "x", "max_tokens": 0, "guided_json": 7}),
    "a format": (
        "/v1/chat/completions",
        {"messages": USER, "max_tokens": 0, "response_format": {"type": "json_schema", "json_schema": {"schema": 7}}},
    ),
    "a parameter": ("/v2/models/preprocessing/infer", {"inputs": [], "parameters": {"x": 7}}),
    "what is ignored": ("/v1/completions", {"prompt": "x", "max_tokens": 0, "vllm_xargs": 7}),
}


@pytest.mark.parametrize("name", NESTED)
def test_a_body_of_any_depth_is_answered_or_the_clients_mistake(http: httpx.Client, name: str) -> None:
    """Close to the depth that can be read at all, what has been read may be too deep to be written."""
    path, body = NESTED[name]
    before, _, after = json.dumps(body).partition("7")
    for depth in range(900, 1010):
        content = before + '{"a":' * depth + "1" + "}" * depth + after
        answer = http.post(path, content=content)
        assert answer.status_code in (200, 400), (depth, answer.text)
