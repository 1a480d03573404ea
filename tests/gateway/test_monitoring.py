"""The alerts, the dashboard and the autoscaler ask for metrics that a real service has."""

import hashlib
import json
import re
import urllib.request
from pathlib import Path

import httpx
import pytest
import yaml

from build_engine.artifact import Artifact
from nimble_coder.client.grpc import CompletionClient
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.triton import Addresses
from tests.helm.chart import CHART, EVERYTHING, ROOT, render

SELECTOR = re.compile(r"(\w+)\{([^}]*)\}")
LABEL = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
PROMETHEUS = {"up"}
"""Made by Prometheus itself."""
CLUSTER = {
    "kube_pod_container_status_restarts_total",
    "container_memory_working_set_bytes",
    "container_spec_memory_limit_bytes",
}
"""Of kube-state-metrics (docs/metrics/workload/pod-metrics.md) and cAdvisor (docs/storage/prometheus.md)."""
SCRAPED = {"job", "namespace", "service", "pod"}
"""Labels that the scraping adds."""


def expressions() -> dict[str, str]:
    """Of every alert and every panel, by where it stands."""
    groups = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())["groups"]
    found = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    for file in ("dashboard", "dashboard-keys"):
        for panel in json.loads((CHART / "files" / f"{file}.json").read_text())["panels"]:
            found |= {f"{panel['title']}, {target['refId']}": target["expr"] for target in panel.get("targets", [])}
    return found


@pytest.fixture(scope="module")
def page(gateway: Serving, artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The metrics of a service that has answered over both protocols, refused something, and is scraped again; and
    those of a gateway that counts for each key."""
    url = gateway.addresses.http
    httpx.post(f"{url}/v1/completions", json={"prompt": "import os\nimport ", "max_tokens": 24}, timeout=60)
    httpx.post(f"{url}/v1/completions", json={"prompt": ""})
    with CompletionClient(gateway.addresses.grpc) as client:
        client.complete("import os\nimport ", 24)
    with urllib.request.urlopen(gateway.addresses.metrics, timeout=5) as answer:
        text: str = answer.read().decode()
    return text + counted_for_keys(gateway, artifact, tmp_path_factory.mktemp("keys") / "log", "true")


def counted_for_keys(gateway: Serving, artifact: Artifact, log: Path, per_key: str) -> str:
    """Lines of the metrics of a gateway with two keys, of which one has asked for five tokens."""
    settings = {"NIMBLE_API_KEYS": "first, second", "NIMBLE_METRICS_PER_KEY": per_key}
    free = Addresses.free()
    with GatewayProcesses(artifact.directory, gateway.triton.addresses, free, log=log, settings=settings) as gateways:
        gateways.wait_ready()
        body = {"prompt": "import os", "max_tokens": 5, "ignore_eos": True}
        url, headers = f"{gateways.addresses.http}/v1/completions", {"Authorization": "Bearer second"}
        assert httpx.post(url, json=body, headers=headers, timeout=60).status_code == 200
        lines = httpx.get(gateways.addresses.metrics, timeout=5).text.splitlines()
    return "\n".join(line for line in lines if line.startswith("nimble_key_"))


def test_a_key_is_counted_under_a_name_that_does_not_tell_it(page: str) -> None:
    name = hashlib.sha256(b"second").hexdigest()[:12]
    assert f'\nnimble_key_requests_total{{key="{name}"}} 1.0\n' in page
    assert f'nimble_key_tokens_total{{key="{name}",kind="generation"}} 5.0' in page
    assert f'nimble_key_tokens_total{{key="{name}",kind="prompt"}} 2.0' in page
    assert "second" not in re.findall(r'key="([^"]*)"', page)


def test_keys_are_not_counted_unless_asked_for(gateway: Serving, artifact: Artifact, tmp_path: Path) -> None:
    assert "key=" not in counted_for_keys(gateway, artifact, tmp_path / "log", "false")


@pytest.mark.parametrize("where", expressions())
def test_an_expression_asks_for_metrics_and_labels_that_are_there(where: str, page: str) -> None:
    expression = expressions()[where]
    selectors = SELECTOR.findall(expression)
    assert selectors
    assert len(selectors) == expression.count("{")
    for name, conditions in selectors:
        if name in CLUSTER:
            assert conditions == f'container="{render().container["name"]}"'
            continue
        assert 'job="nimble-coder"' in conditions
        if name in PROMETHEUS:
            continue
        lines = re.findall(rf"^{name}(?:\{{(.*)\}})? \S+$", page, re.MULTILINE)
        assert lines, f"{name} is not on the page"
        there = set(LABEL.findall(lines[0])) | SCRAPED
        assert set(LABEL.findall(conditions)) <= there
    for label in re.findall(r"by \(([^)]+)\)", expression):
        assert set(re.split(r"[, ]+", label)) - {"le"} - SCRAPED <= set(LABEL.findall(page))


def test_values_that_expressions_ask_for_are_there(page: str) -> None:
    assert re.search(r'nv_trt_llm_request_metrics\{[^}]*request_type="waiting"', page)
    assert 'route="/v1/completions",status="200"' in page
    assert 'status="OK"' in page


def test_the_autoscaler_asks_for_a_metric_that_is_there(page: str) -> None:
    (metric,) = render(EVERYTHING).one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert re.search(rf"^{metric['pods']['metric']['name']} \S+$", page, re.MULTILINE)


@pytest.mark.parametrize(
    "gauge",
    [
        'nv_trt_llm_request_metrics{request_type="waiting"}',
        'nv_trt_llm_request_metrics{request_type="scheduled"}',
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}',
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per"}',
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"}',
    ],
)
def test_the_endpoint_picker_finds_what_it_asks_for(gauge: str, page: str) -> None:
    """What it calls `triton-tensorrt-llm`, in docs/proposals/003-model-server-protocol of the inference extension."""
    name, label = gauge.removesuffix("}").split("{")
    (value,) = re.findall(rf"^{name}\{{[^}}]*{label}[^}}]*\}} (\S+)$", page, re.MULTILINE)
    assert float(value) >= 0


def test_ready_is_a_metric(page: str) -> None:
    assert "\nnimble_ready 1.0\n" in page


def test_the_scraped_job_is_the_one_that_expressions_ask_for() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "monitoring" / "prometheus.yml").read_text())
    assert [job["job_name"] for job in config["scrape_configs"]] == ["nimble-coder"]
