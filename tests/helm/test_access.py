"""Who reaches the pods, by which way, and what watches them."""

import base64
import json
import re
from typing import Any

import pytest

from tests.helm.chart import (
    CPU,
    EVERYTHING,
    KEDA,
    MTLS,
    NAME,
    NAMESPACE,
    NODES,
    RELEASE,
    Document,
    Rendered,
    Values,
    render,
)


def matches(selector: Document, labels: Document) -> bool:
    return bool(selector.items() <= labels.items())


def labels_of_pods(rendered: Rendered) -> Document:
    labels: Document = rendered.template["metadata"]["labels"]
    return labels


def ports(service: Document) -> dict[str, tuple[int, str]]:
    return {port["name"]: (port["port"], port["appProtocol"]) for port in service["spec"]["ports"]}


def test_services_find_the_pods_that_serve_and_not_the_one_that_tests() -> None:
    rendered = render(EVERYTHING)
    selectors = [service["spec"]["selector"] for service in rendered.all("Service")]
    kinds = ("Deployment", "PodDisruptionBudget")
    selectors += [rendered.one(kind)["spec"]["selector"]["matchLabels"] for kind in kinds]
    selectors.append(rendered.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
    for selector in selectors:
        assert matches(selector, labels_of_pods(rendered))
        assert not matches(selector, rendered.one("Pod", "-test")["metadata"]["labels"])


def selects(selector: Document, labels: Document) -> bool:
    """A LabelSelector, of whose operators the chart uses one."""
    expressions = selector.get("matchExpressions", [])
    assert {each["operator"] for each in expressions} <= {"In"}
    return matches(selector["matchLabels"], labels) and all(labels.get(e["key"]) in e["values"] for e in expressions)


def test_workers_of_a_group_are_reached_by_their_group_alone() -> None:
    rendered = render(NODES, {"replicas": 2})
    (worker,) = rendered.workers
    labels = worker["metadata"]["labels"]
    assert not any(matches(service["spec"]["selector"], labels) for service in rendered.all("Service"))
    assert not selects(rendered.one("NetworkPolicy")["spec"]["podSelector"], labels)
    spec = rendered.one("NetworkPolicy", "-group")["spec"]
    group = spec["podSelector"]
    assert spec["ingress"] == [{"from": [{"podSelector": group}]}]
    among, names = spec["egress"]
    assert among == {"to": [{"podSelector": group}]}
    assert [(port["port"], port["protocol"]) for port in names["ports"]] == [(53, "UDP"), (53, "TCP")]
    budget = rendered.one("PodDisruptionBudget")["spec"]["selector"]
    for selector in (group, budget):
        assert selects(selector, labels)
        assert selects(selector, labels_of_pods(rendered))
        assert not selects(selector, rendered.one("Pod", "-test")["metadata"]["labels"])


def test_services_lead_to_ports_of_the_container() -> None:
    rendered = render()
    there = {port["name"] for port in rendered.container["ports"]}
    assert {port["targetPort"] for each in rendered.all("Service") for port in each["spec"]["ports"]} == there


def test_the_metrics_are_never_published_with_the_api() -> None:
    rendered = render(EVERYTHING)
    api, metrics = rendered.one("Service"), rendered.one("Service", "-metrics")
    assert (api["spec"]["type"], metrics["spec"]["type"]) == ("LoadBalancer", "ClusterIP")
    assert set(ports(api)) == {"http", "grpc"}
    assert ports(metrics) == {"metrics": (8002, "http")}


def test_the_ports_of_the_api_have_no_metrics_unless_asked_for() -> None:
    assert "metrics_on_http_port: false" in render(EVERYTHING).settings
    assert "metrics_on_http_port: true" in render({"settings": {"metrics_on_http_port": True}}).settings


def test_the_ports_say_what_they_speak() -> None:
    assert ports(render().one("Service")) == {"http": (8000, "http"), "grpc": (8001, "kubernetes.io/h2c")}
    encrypted = render({"tls": {"secret": "certificate"}}).one("Service")
    assert ports(encrypted) == {"http": (8000, "https"), "grpc": (8001, "https")}


def test_ingress_and_routes_lead_to_ports_of_the_service() -> None:
    rendered = render(EVERYTHING)
    service = rendered.one("Service")
    (rule,) = rendered.one("Ingress")["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert rule["host"] == "coder.example.com"
    assert backend["name"] == service["metadata"]["name"]
    assert backend["port"]["name"] in ports(service)
    for kind, port, hostnames in (("HTTPRoute", "http", "httpHostnames"), ("GRPCRoute", "grpc", "grpcHostnames")):
        spec = rendered.one(kind)["spec"]
        assert spec["rules"] == [{"backendRefs": [{"name": NAME, "port": ports(service)[port][0]}]}]
        assert spec["hostnames"] == EVERYTHING["gateway"][hostnames]
        assert spec["parentRefs"] == EVERYTHING["gateway"]["parentRefs"]


def test_a_route_without_a_host_name_is_none() -> None:
    rendered = render({"gateway": {"parentRefs": [{"name": "edge"}], "httpHostnames": ["a.b"]}})
    assert [len(rendered.all(kind)) for kind in ("HTTPRoute", "GRPCRoute")] == [1, 0]


def test_nothing_optional_is_there_unasked() -> None:
    assert sorted({document["kind"] for document in render(CPU).documents}) == [
        "ConfigMap",
        "Deployment",
        "NetworkPolicy",
        "Pod",
        "Secret",
        "Service",
        "ServiceAccount",
    ]


def test_the_network_policy_lets_in_who_is_named_and_the_test() -> None:
    rendered = render(EVERYTHING)
    wanted = EVERYTHING["networkPolicy"]
    spec = rendered.one("NetworkPolicy")["spec"]
    api, metrics = spec["ingress"]
    assert [port["port"] for port in api["ports"]] == ["http", "grpc"]
    *clients, test = api["from"]
    assert clients == wanted["clients"]
    assert matches(test["podSelector"]["matchLabels"], rendered.one("Pod", "-test")["metadata"]["labels"])
    assert ([port["port"] for port in metrics["ports"]], metrics["from"]) == (["metrics"], wanted["scrapers"])
    assert spec["egress"] == wanted["egress"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]


def key_of(rendered: Rendered, suffix: str = "-keys") -> str:
    """What the chart has made."""
    (content,) = rendered.one("Secret", suffix)["data"].values()
    return base64.b64decode(content).decode()


def test_there_is_a_key_that_nobody_can_guess_unless_told_otherwise() -> None:
    keys = {key_of(render()) for _ in range(2)}
    assert len(keys) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9]{48}", key) for key in keys)
    assert "api_keys_file: /etc/nimble-coder/keys/keys" in render().settings
    opened = render({"auth": {"enabled": False}})
    assert opened.all("Secret") == []
    assert "api_keys_file" not in opened.settings
    assert render(EVERYTHING).all("Secret") == []


@pytest.mark.parametrize("values", [{}, {"apiKeys": {"key": "clients"}}, {"apiKeys": {"secret": "theirs"}}])
def test_pods_and_test_have_the_same_keys(values: Values) -> None:
    rendered = render(values)
    for pod in (rendered.pod, rendered.one("Pod", "-test")["spec"]):
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "keys"]
        assert volume["secret"]["secretName"] == (values.get("apiKeys", {}).get("secret") or f"{NAME}-keys")
    file = values.get("apiKeys", {}).get("key", "keys")
    assert f"/etc/nimble-coder/keys/{file}" in rendered.settings
    assert f"/etc/nimble-coder/keys/{file}" in rendered.one("Pod", "-test")["spec"]["containers"][0]["args"][0]
    for made in rendered.all("Secret"):
        assert list(made["data"]) == [file]


def test_what_goes_out_by_default_is_names_and_the_hub() -> None:
    egress = render().one("NetworkPolicy")["spec"]["egress"]
    assert [[(port["port"], port["protocol"]) for port in rule["ports"]] for rule in egress] == [
        [(53, "UDP"), (53, "TCP")],
        [(443, "TCP")],
    ]
    assert render(CPU).one("NetworkPolicy")["spec"]["egress"] == []
    assert render({"networkPolicy": {"enabled": False}}).all("NetworkPolicy") == []


@pytest.mark.parametrize(
    ("values", "budgets"),
    [
        ({"replicas": 1}, 0),
        ({"replicas": 2}, 1),
        ({"autoscaling": {"enabled": True}}, 1),
        ({"replicas": 2, "podDisruptionBudget": {"enabled": False}}, 0),
    ],
)
def test_several_pods_are_not_taken_away_at_once(values: Values, budgets: int) -> None:
    found = render(CPU, values).all("PodDisruptionBudget")
    assert [each["spec"]["maxUnavailable"] for each in found] == [1] * budgets


@pytest.mark.parametrize("egress", [[{}], []])
def test_without_names_the_network_policy_is_about_ports_and_what_goes_out(egress: list[Any]) -> None:
    spec = render({"networkPolicy": {"enabled": True, "egress": egress}}).one("NetworkPolicy")["spec"]
    assert [sorted(rule) for rule in spec["ingress"]] == [["ports"], ["ports"]]
    assert spec["egress"] == egress


def test_each_pod_is_scraped_once_under_the_name_that_the_rules_know() -> None:
    rendered = render(EVERYTHING)
    spec = rendered.one("ServiceMonitor")["spec"]
    (service,) = [
        each for each in rendered.all("Service") if matches(spec["selector"]["matchLabels"], each["metadata"]["labels"])
    ]
    (endpoint,) = spec["endpoints"]
    assert endpoint["port"] in ports(service)
    job = service["metadata"]["labels"][spec["jobLabel"]]
    rules = [rule for group in rendered.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    assert {name for rule in rules for name in re.findall(r'job="([^"]+)"', rule["expr"])} == {job}


def test_the_labels_that_prometheus_asks_for_are_there() -> None:
    rendered = render(EVERYTHING)
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert rendered.one(kind)["metadata"]["labels"]["release"] == "prometheus"
    assert rendered.one("ConfigMap", "-dashboard")["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_keys_have_rows_of_the_dashboard_only_if_asked_for() -> None:
    asked, usual = render(EVERYTHING, {"metrics": {"perKey": True}}), render(EVERYTHING)
    assert "metrics_per_key" not in usual.settings
    assert "metrics_per_key: true" in asked.settings
    with_keys, without = (
        json.loads(each.one("ConfigMap", "-dashboard")["data"]["nimble-coder.json"]) for each in (asked, usual)
    )
    more = [panel for panel in with_keys["panels"] if panel not in without["panels"]]
    assert [(panel["type"], panel.get("repeat")) for panel in more] == [
        ("row", "key"),
        ("timeseries", None),
        ("timeseries", None),
    ]
    assert len({panel["id"] for panel in with_keys["panels"]}) == len(with_keys["panels"])
    assert min(panel["gridPos"]["y"] for panel in more) >= max(p["gridPos"]["y"] + 8 for p in without["panels"])
    names = [[variable["name"] for variable in each["templating"]["list"]] for each in (with_keys, without)]
    assert names == [["datasource", "namespace", "service", "key"], ["datasource", "namespace", "service"]]


def test_the_autoscaler_alone_decides_how_many_pods_there_are() -> None:
    rendered = render(EVERYTHING)
    spec = rendered.one("HorizontalPodAutoscaler")["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 4)
    assert "replicas" not in rendered.one("Deployment")["spec"]
    assert render(CPU, {"replicas": 3}).one("Deployment")["spec"]["replicas"] == 3


def test_keda_scales_in_the_autoscalers_place() -> None:
    rendered = render(EVERYTHING, KEDA, {"autoscaling": {"keda": {"triggers": [{"type": "cron", "metadata": {}}]}}})
    assert rendered.all("HorizontalPodAutoscaler") == []
    assert "replicas" not in rendered.one("Deployment")["spec"]
    spec = rendered.one("ScaledObject")["spec"]
    assert spec["scaleTargetRef"]["name"] == rendered.one("Deployment")["metadata"]["name"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 4)
    running, waiting, own = spec["triggers"]
    service = rendered.one("Service", "-metrics")["metadata"]["name"]
    pods = f'job="nimble-coder", namespace="{NAMESPACE}", service="{service}"'  # of this release, and no other's
    assert running["metadata"]["query"] == f"sum(num_requests_running{{{pods}}})"
    assert waiting["metadata"]["query"].startswith(f"sum(avg_over_time(nv_trt_llm_request_metrics{{{pods}, ")
    assert (running["metadata"]["threshold"], waiting["metadata"]["threshold"]) == ("8", "2")
    assert own["type"] == "cron"


@pytest.mark.parametrize("values", [{}, KEDA])
def test_scaling_down_takes_one_pod_at_a_time_and_cuts_no_stream(values: Values) -> None:
    asked: Values = {"autoscaling": {"enabled": True}, "settings": None}
    rendered = render(EVERYTHING, asked, values)
    scaler = rendered.all("HorizontalPodAutoscaler") or [
        each["spec"]["advanced"]["horizontalPodAutoscalerConfig"] | {"spec": None}
        for each in rendered.all("ScaledObject")
    ]
    behavior = (scaler[0]["spec"] or scaler[0])["behavior"]
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
    assert "drain_seconds: 600" in rendered.settings
    assert rendered.pod["terminationGracePeriodSeconds"] == 615


def test_helm_test_asks_the_service_over_both_protocols() -> None:
    (container,) = render().one("Pod", "-test")["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    address = f"{NAME}.{NAMESPACE}.svc"
    assert environment == {"NIMBLE_URL": f"{address}:8001", "NIMBLE_HTTP_URL": f"http://{address}:8000"}
    script = container["args"][0]
    assert [line for line in script.splitlines() if line.startswith("nimble-coder complete")] == [
        "nimble-coder complete 'def add(a, b):' --max-tokens 16 --stats",
        "nimble-coder complete 'def add(a, b):' --max-tokens 16 --stats --openai",
    ]


def test_helm_test_has_no_private_key_and_cannot_show_a_certificate() -> None:
    spec = render({"tls": {"secret": "certificate"}}).one("Pod", "-test")["spec"]
    (tls,) = [volume for volume in spec["volumes"] if volume["name"] == "tls"]
    assert [item["key"] for item in tls["secret"]["items"]] == ["ca.crt"]
    assert tls["secret"]["optional"] is True  # `kubectl create secret tls` makes none, and the pod would wait for it
    assert "--tls" in spec["containers"][0]["args"][0]
    assert render(EVERYTHING, MTLS).all("Pod") == []


def test_helm_test_runs_where_the_image_does() -> None:
    spec = render(EVERYTHING).one("Pod", "-test")["spec"]
    assert spec["nodeSelector"] == EVERYTHING["nodeSelector"]
    assert spec["tolerations"] == render(EVERYTHING).pod["tolerations"]


def test_the_notes_call_a_service_under_tls_by_the_name_in_its_certificate() -> None:
    notes = render({"tls": {"secret": "certificate"}}).notes
    assert f"curl -s --connect-to ::localhost: https://{NAME}.{NAMESPACE}.svc:8000/v1/completions" in notes
    assert "connect-to" not in render().notes


def test_the_notes_say_how_to_call_it() -> None:
    notes = render().notes
    assert f"http://{NAME}.{NAMESPACE}.svc:8000" in notes
    assert f"helm test {RELEASE} --namespace {NAMESPACE}" in notes
    assert f"get secret {NAME}-keys -o jsonpath='{{.data.keys}}'" in notes
    assert "authorization: Bearer $KEY" in notes
    assert "No API keys are set" in render({"auth": {"enabled": False}}).notes
    closed = render(EVERYTHING, MTLS).notes
    assert "No API keys are set" not in closed
    assert "helm test" not in closed
    assert "https://coder.example.com" in closed
