"""NIM's management routes, the documentation, and errors of the HTTP layer."""

import json

import httpx
import pytest

from nimble_coder.gateway.routes import ROUTES
from nimble_coder.serving import Serving


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
    pages = [http.get(path).text for path in ("/metrics", "/v1/metrics")]
    pages.append(httpx.get(gateway.addresses.metrics).text)
    for page in pages:
        assert 'nv_inference_request_success{model="tensorrt_llm"' in page
        assert 'nimble_http_requests_total{route="/v1/completions",status="200"}' in page
        assert "time_to_first_token_seconds_bucket" in page


def test_the_metrics_port_has_no_api(gateway: Serving) -> None:
    a = gateway.addresses
    assert httpx.post(f"http://{a.host}:{a.metrics_port}/v1/completions", json={"prompt": "x"}).status_code == 404


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


def test_bodies_that_are_no_json_or_too_large(http: httpx.Client) -> None:
    for body in (b"", b"{", b"[]", b'{"prompt": "\xff"}', b'{"prompt": 1}', b"\x00" * 10):
        assert http.post("/v1/completions", content=body).status_code == 400
    assert http.post("/v1/completions", content=b" " * (9 << 20)).status_code == 413

    def pieces():  # type: ignore[no-untyped-def]
        for _ in range(9):
            yield b" " * (1 << 20)

    assert http.post("/v1/completions", content=pieces()).status_code == 413


def test_request_ids_are_kept_or_made(http: httpx.Client) -> None:
    assert http.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert len(http.get("/health", headers={"x-request-id": "bad id"}).headers["x-request-id"]) == 24


def test_prompts_do_not_reach_the_log(http: httpx.Client, gateway: Serving) -> None:
    secret = "very_secret_identifier"
    http.post("/v1/completions", json={"prompt": secret, "max_tokens": 1, "suffix": secret, "model": "unknown"})
    http.post("/infill", json={"input_prefix": secret, "n_predict": 1})
    http.get(f"/v1/models/{secret}")
    assert gateway.log is not None
    assert secret not in gateway.log.read_text(errors="replace")
