"""The chart, rendered by the real Helm."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "nimble-coder"
RELEASE, NAMESPACE = "coder", "tools"
NAME = "coder-nimble-coder"
Values = dict[str, Any]
Document = dict[str, Any]

CPU, CUDA = (yaml.safe_load((CHART / f"values-{name}.yaml").read_text()) for name in ("cpu", "cuda"))
EVERYTHING: Values = {
    "image": {"repository": "registry.example/nimble-coder", "pullSecrets": [{"name": "registry"}]},
    "gpu": {"count": 2},
    "settings": {
        "model_profile": "qwen2.5-coder-32b-instruct-h100-bf16-tp2-w15n15g15",
        "served_model_names": ["coder", "qwen2.5-coder"],
        "max_body_bytes": 33554432,
        "drain_seconds": 90.5,
        "kv_cache_fraction": 0.8,
        "jsonl_logging": True,
    },
    "apiKeys": {"secret": "coder-keys"},
    "adminKey": {"secret": "coder-admin"},
    "huggingFace": {"secret": "hub"},
    "tls": {"secret": "coder-tls"},
    "cache": {"accessMode": "ReadWriteMany", "storageClass": "shared"},
    "autoscaling": {"enabled": True, "minReplicas": 2},
    "resources": {"requests": {"cpu": 8, "memory": "64Gi"}, "limits": {"memory": "128Gi"}},
    "service": {"type": "LoadBalancer", "annotations": {"example.com/internal": "true"}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": "600"},
        "hosts": ["coder.example.com"],
        "tlsSecret": "public",
    },
    "gateway": {
        "parentRefs": [{"name": "edge", "namespace": "gateways"}],
        "httpHostnames": ["coder.example.com"],
        "grpcHostnames": ["grpc.coder.example.com"],
    },
    "networkPolicy": {
        "enabled": True,
        "clients": [{"podSelector": {"matchLabels": {"app": "editor"}}}],
        "scrapers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}],
    },
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    },
    "serviceAccount": {"annotations": {"example.com/role": "coder"}},
    "podLabels": {"team": "tools"},
    "podAnnotations": {"example.com/checked": "yes"},
    "priorityClassName": "serving",
    "runtimeClassName": "nvidia",
    "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
    "extraVolumes": [{"name": "policies", "configMap": {"name": "policies"}}],
    "extraVolumeMounts": [{"name": "policies", "mountPath": "/etc/policies"}],
}
"""Every optional object and every passed-on value."""
BUILT: Values = {"build": {"enabled": True}, "cache": {"existingClaim": "filled"}}
"""The engine is made by a Job."""
NODES: Values = {
    "gpu": {"count": 1},
    "settings": {"model_profile": "qwen2.5-coder-32b-instruct-h100-bf16-tp2-w15n15g15"},
    "cache": {"existingClaim": "filled", "accessMode": "ReadWriteMany"},
    "multiNode": {"enabled": True, "nodes": 2, "store": "stores/32b"},
}
"""One engine on two nodes with a GPU each."""
KEDA: Values = {"autoscaling": {"keda": {"enabled": True}}}
MTLS: Values = {"tls": {"clientCaSecret": "clients"}}


@dataclass
class Rendered:
    """What one set of values makes."""

    files: dict[str, str]

    @cached_property
    def documents(self) -> list[Document]:
        """Without the notes, which are for people."""
        texts = [text for path, text in self.files.items() if not path.endswith("NOTES.txt")]
        return [document for text in texts for document in yaml.safe_load_all(text) if document]

    @property
    def notes(self) -> str:
        return next(text for path, text in self.files.items() if path.endswith("NOTES.txt"))

    def all(self, kind: str) -> list[Document]:
        return [document for document in self.documents if document["kind"] == kind]

    def one(self, kind: str, suffix: str = "") -> Document:
        """The one of that kind and name."""
        (found,) = [each for each in self.all(kind) if each["metadata"]["name"] == NAME + suffix]
        return found

    @property
    def template(self) -> Document:
        """Of the pods that serve: a Deployment's, or the leaders' of a LeaderWorkerSet."""
        groups = [each["spec"]["leaderWorkerTemplate"]["leaderTemplate"] for each in self.all("LeaderWorkerSet")]
        (template,) = groups or [self.one("Deployment")["spec"]["template"]]
        assert isinstance(template, dict)
        return template

    @property
    def workers(self) -> list[Document]:
        """The templates of the pods that lend a LeaderWorkerSet's leaders their GPUs."""
        return [each["spec"]["leaderWorkerTemplate"]["workerTemplate"] for each in self.all("LeaderWorkerSet")]

    @property
    def pod(self) -> Document:
        """The spec of the pods that serve."""
        spec: Document = self.template["spec"]
        return spec

    @property
    def container(self) -> Document:
        (container,) = self.pod["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def settings(self) -> str:
        """The settings file."""
        return str(self.one("ConfigMap", "-settings")["data"]["settings.yaml"])


def render(*layers: Values) -> Rendered:
    """The chart with values over its defaults, later layers over earlier ones; raises `helm.HelmError`."""
    with helm.Chart.load(CHART) as chart:
        return Rendered(chart.render(merged(*layers), name=RELEASE, namespace=NAMESPACE))


def merged(*layers: Values) -> Values:
    """As Helm lays one values file over another."""
    result: Values = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result
