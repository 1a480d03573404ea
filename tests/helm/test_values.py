"""What the chart refuses, and that it says why."""

import json
import re
from collections.abc import Iterator

import helm_python as helm
import pytest
import yaml

from tests.helm.chart import BUILT, CHART, CPU, CUDA, EVERYTHING, KEDA, NODES, Rendered, Values, merged, render
from tests.helm.settings_schema import SCHEMA, settings_schema

SEVERAL = "cache.accessMode is ReadWriteOnce, which only one pod can mount, but there are to be several"
SHARED = {"cache": {"accessMode": "ReadWriteMany"}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gpus": 1}, "additional properties 'gpus' not allowed"),
        ({"gpu": {"count": "2"}}, "at '/gpu/count': got string, want integer"),
        ({"image": {"digest": "sha256:1"}}, "at '/image/digest'"),
        ({"image": {"suffix": "cuda"}}, "at '/image/suffix'"),
        ({"settings": {"drain_second": 3}}, "at '/settings': additional properties 'drain_second' not allowed"),
        ({"settings": {"log_level": "chatty"}}, "at '/settings/log_level': value must be one of"),
        ({"settings": {"api_keys": "secret"}}, "additional properties 'api_keys' not allowed"),
        ({"settings": {"http_port": 9000}}, "additional properties 'http_port' not allowed"),
        ({"apiKeys": {"value": "secret"}}, "at '/apiKeys': additional properties 'value' not allowed"),
        ({"huggingFace": {"token": "hf_x"}}, "at '/huggingFace': additional properties 'token' not allowed"),
        ({"cache": {"accessMode": "ReadWriteTwice"}}, "at '/cache/accessMode': value must be one of"),
        ({"cache": {"size": "200"}}, "at '/cache/size'"),
        ({"multiNode": {"nodes": 1}}, "at '/multiNode/nodes'"),
        ({"multiNode": {"store": "/elsewhere"}}, "at '/multiNode/store'"),
        ({"sharedMemory": "2 GB"}, "at '/sharedMemory'"),
        ({"resources": {"limits": {"memory": "lots"}}}, "at '/resources/limits/memory'"),
        ({"resources": {"claims": []}}, "additional properties 'claims' not allowed"),
        ({"podDisruptionBudget": {"maxUnavailable": "some"}}, "at '/podDisruptionBudget/maxUnavailable'"),
        ({"podAnnotations": {"scrape": True}}, "at '/podAnnotations/scrape': got boolean, want string"),
        ({"extraEnv": [{"value": "x"}]}, "at '/extraEnv/0': missing property 'name'"),
        ({"cache": None}, "at '': missing property 'cache'"),
        ({"cache": {"size": None}}, "at '/cache': missing property 'size'"),
        ({"fullnameOverride": "1st"}, "at '/fullnameOverride'"),
        ({"podLabels": {"app.kubernetes.io/component": "x"}}, "invalid propertyName 'app.kubernetes.io/component'"),
        ({"podLabels": {"team": "two words"}}, "at '/podLabels/team'"),
        ({"nodeSelector": {"zone": "a/b"}}, "at '/nodeSelector/zone'"),
        ({"metrics": {"rules": {"labels": {"helm.sh/chart": "x"}}}}, "invalid propertyName 'helm.sh/chart'"),
        ({"ingress": {"hosts": ["https://coder.example.com"]}}, "at '/ingress/hosts/0'"),
        ({"gateway": {"httpHostnames": ["Coder.example.com"]}}, "at '/gateway/httpHostnames/0'"),
        ({"settings": {"tls_mode": "tls"}}, "additional properties 'tls_mode' not allowed"),
    ],
)
def test_the_schema_names_what_is_wrong(values: Values, message: str) -> None:
    with pytest.raises(helm.HelmValuesError) as refused:
        render(values)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replicas": 2}, SEVERAL),
        ({"autoscaling": {"enabled": True}}, SEVERAL),
        ({**SHARED, "autoscaling": {"enabled": True, "minReplicas": 9}}, "autoscaling.minReplicas is 9, more than"),
        ({**CPU, "autoscaling": {"enabled": True, "minReplicas": 0}}, "autoscaling.minReplicas is 0"),
        ({**CPU, "autoscaling": {"enabled": True, "minReplicas": 0, "keda": {"enabled": True}}}, "sees requests while"),
        ({"cache": {"accessMode": "ReadOnlyMany"}}, "name a filled one in cache.existingClaim"),
        ({"settings": {"tensor_parallel_size": 2}}, "split over 2 GPUs: set gpu.count=2"),
        ({"settings": {"model_profile": "qwen2.5-coder-32b-instruct-h100-bf16-tp2-w15n15g15"}}, "set gpu.count=2"),
        ({"gpu": {"count": 2}, "sharedMemory": "512Mi"}, "sharedMemory is 512Mi, but"),
        (merged(NODES, CUDA), "the portable engine runs on one device"),
        (merged(NODES, CPU), "the portable engine runs on one device"),
        (
            merged(NODES, {"settings": {"model_profile": "qwen2.5-coder-7b-instruct-torch-cuda-bf16-w15n15g15"}}),
            "the portable engine runs on one device",
        ),
        (
            merged(NODES, {"gpu": {"count": 2}}),
            "nodes is 2 and gpu.count 2, but the engine of settings.model_profile is",
        ),
        (merged(NODES, {"multiNode": {"nodes": 3}}), "is split over 2 GPUs: their product has to be that"),
        (merged(NODES, {"settings": {"model_profile": "demo"}}), "is split over 1 GPUs: their product has to be that"),
        (merged(NODES, {"multiNode": {"store": ""}}), "in multiNode.store the directory"),
        (merged(NODES, {"cache": {"existingClaim": ""}}), "multiNode.enabled needs cache.existingClaim"),
        (merged(NODES, {"cache": {"accessMode": "ReadWriteOnce"}}), "a volume that every node can mount"),
        (merged(NODES, {"autoscaling": {"enabled": True}}), "set replicas, which are whole groups"),
        (merged(NODES, {"build": {"enabled": True}}), "build.enabled builds for one node"),
        (merged(NODES, {"strategy": {"type": "Recreate"}}), "strategy is a Deployment's"),
        (merged(CUDA, {"gpu": {"count": 2}}), "the portable engine of the image -cuda runs on one device"),
        ({"autoscaling": {"keda": {"enabled": True}}}, "autoscaling.keda.enabled needs autoscaling.enabled"),
        (merged(CPU, {"cache": {"existingClaim": "filled"}}), "cache.enabled is false, which mounts none"),
        ({"build": {"downloadOnly": True}}, "the Job that build.enabled makes"),
        ({"gateway": {"httpHostnames": ["a.b"]}}, "need gateway.parentRefs"),
        ({"extraEnv": [{"name": "NIMBLE_CONFIG", "value": "/x"}]}, "extraEnv sets NIMBLE_CONFIG"),
        (
            {"extraEnv": [{"name": "NIMBLE_DRAIN_SECONDS", "value": "600"}]},
            "extraEnv sets NIMBLE_DRAIN_SECONDS, by which",
        ),
        ({"extraEnv": [{"name": "NIM_SERVER_PORT", "value": "80"}]}, "extraEnv sets NIM_SERVER_PORT"),
        (merged(BUILT, {"cache": {"accessMode": "ReadWriteOncePod"}}), "writes beside the pod"),
        (
            {"extraEnv": [{"name": "HF_TOKEN", "value": "x"}], "huggingFace": {"secret": "hub"}},
            "extraEnv sets HF_TOKEN, which huggingFace.secret",
        ),
        (
            {"extraEnv": [{"name": "NIMBLE_ADMIN_KEY", "value": "x"}], "adminKey": {"secret": "admin"}},
            "extraEnv sets NIMBLE_ADMIN_KEY, which huggingFace.secret or adminKey.secret sets",
        ),
        ({"tls": {"clientCaSecret": "clients"}}, "tls.clientCaSecret needs tls.secret"),
        ({"auth": {"enabled": False}, "apiKeys": {"secret": "keys"}}, "auth.enabled is false, which lets everybody in"),
        ({"build": {"enabled": True}}, "build.enabled needs cache.existingClaim"),
        (
            {"build": {"enabled": True, "downloadOnly": True}, "cache": {"existingClaim": "filled"}},
            "build.downloadOnly needs settings.model_profile",
        ),
        ({"ingress": {"enabled": True}}, "ingress.enabled needs ingress.hosts"),
        ({"gateway": {"parentRefs": [{"name": "edge"}]}}, "gateway.parentRefs needs gateway.httpHostnames"),
        (
            {"gateway": {"parentRefs": [{"name": "edge"}], "httpHostnames": ["a.b"], "grpcHostnames": ["a.b"]}},
            "a.b is a host name of HTTP and of gRPC",
        ),
    ],
)
def test_what_cannot_work_together_is_refused(values: Values, message: str) -> None:
    with pytest.raises(helm.HelmRenderError) as refused:
        render(values)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {**SHARED, "replicas": 2},
        {**CPU, "replicas": 3},
        {"cache": {"accessMode": "ReadOnlyMany", "existingClaim": "filled"}, "replicas": 2},
        {"gpu": {"count": 2}, "settings": {"tensor_parallel_size": 2}, "sharedMemory": "1024Mi"},
        {"settings": {"model_profile": "qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"}},
        {"settings": {"model_profile": "demo"}, "replicas": 0},
        merged(NODES, {"replicas": 2}),
        merged(NODES, {"cache": {"accessMode": "ReadOnlyMany"}}),
        merged(NODES, {"multiNode": {"nodes": 4}, "settings": {"tensor_parallel_size": 4}}),
        {"settings": None, "tolerations": None, "podSecurityContext": None, "resources": {"requests": None}},
    ],
)
def test_what_can_is_not(values: Values) -> None:
    assert render(values).documents


@pytest.mark.parametrize("release", ["1st", "my.coder"])
def test_a_release_whose_name_no_service_may_have_is_refused(release: str) -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmRenderError, match="set fullnameOverride"):
        chart.render({}, name=release, namespace="tools")


@pytest.mark.parametrize("release", ["a" * 53, "ab-" * 17 + "a", "coder-nimble-coder"])
def test_no_name_is_longer_than_kubernetes_takes(release: str) -> None:
    with helm.Chart.load(CHART) as chart:
        files = chart.render(merged(EVERYTHING, {"settings": None}), name=release, namespace="tools")
    names = [each["metadata"]["name"] for each in Rendered(files).documents]
    assert [name for name in names if not re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)] == []


def paths(values: Values, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Of every value and every group of them."""
    for name, value in values.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from paths(value, (*above, name))


def without(path: tuple[str, ...]) -> Values:
    """As `--set a.b=null`, which takes a default away."""
    values: Values | None = None
    for name in reversed(path):
        values = {name: values}
    assert values
    return values


def test_a_default_that_is_taken_away_is_not_needed_or_is_missed_by_its_name() -> None:
    chosen = merged(EVERYTHING, BUILT, KEDA)
    for path in paths(yaml.safe_load((CHART / "values.yaml").read_text())):
        try:
            assert "%!" not in str(render(chosen, without(path)).files), path
        except helm.HelmValuesError as refused:
            assert f"missing property '{path[-1]}'" in str(refused)
        except helm.HelmRenderError as refused:
            assert "deployment.yaml:1:4): " in str(refused), path


def test_every_value_is_in_the_schema() -> None:
    """So that a new value cannot be forgotten, nor an old one be left behind."""
    schema, values = json.loads(SCHEMA.read_text()), yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)
    for name, value in values.items():
        if name not in ("settings", "strategy") and "properties" in schema["properties"][name]:
            assert set(schema["properties"][name]["properties"]) == set(value), name


def test_every_value_is_used() -> None:
    templates = "".join(path.read_text() for path in CHART.rglob("templates/**/*") if path.is_file())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert [name for name in values if f".Values.{name}" not in templates] == []


def test_the_settings_in_the_schema_are_the_products() -> None:
    written = json.loads(SCHEMA.read_text())["properties"]["settings"]
    assert written == settings_schema(), "python -m tests.helm.settings_schema"
