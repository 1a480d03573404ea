"""What the chart refuses, and that it says why."""

import json

import helm_python as helm
import pytest
import yaml

from tests.helm.chart import CHART, CPU, CUDA, NODES, Values, merged, render
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
