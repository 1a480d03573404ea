"""The Job that builds before there are pods, and the cache that it has filled."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from build_engine.exit_codes import ExitCode
from tests.helm.chart import NAME, RELEASE, ROOT, Values, merged
from tests.kubernetes.client import Client
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.release import NAMESPACE, SECONDS, pods, restarts, url_of

CLAIM, COPY = "engines", "engines-elsewhere"
JOB = f"{NAME}-build"


@pytest.fixture(scope="module")
def values(values_of_all: Values) -> Values:
    """The embedded model is built anew into the claim, as if the image carried no engine."""
    small = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}}
    return merged(
        values_of_all,
        {
            "auth": {"enabled": False},
            "build": {"enabled": True, "resources": small, "retries": 0, "minutes": 10},
            "cache": {"enabled": True, "existingClaim": CLAIM},
            "settings": {"model_profile": "demo"},
            "extraEnv": [{"name": "NIMBLE_BAKED_ARTIFACT", "value": ""}],
        },
    )


@pytest.fixture(scope="module")
def url(cluster: Cluster, config: helm.Config, chart: Path, client: Client, values: Values, namespace: str) -> str:
    cluster.claim(CLAIM, namespace)
    config.install(chart, RELEASE, values, wait="watcher", timeout=SECONDS)
    return url_of()


def test_the_job_has_built_and_the_pods_only_serve(
    cluster: Cluster, client: Client, url: str, seen: Callable[[str], None]
) -> None:
    assert client.complete(url, "")[0] == 200
    (pod,) = pods(cluster)
    log = cluster.kubectl("logs", "--namespace", NAMESPACE, pod)
    assert "/opt/nim/.cache/artifacts/demo" in log
    assert "[build]" not in log
    events = cluster.get("events", "--namespace", NAMESPACE)["items"]
    assert any(each["reason"] == "Completed" and each["involvedObject"]["name"] == JOB for each in events)
    assert restarts(cluster) == 0
    seen(re.findall(r"artifacts/(demo\S*)", log)[0].rstrip('",'))


def test_an_upgrade_builds_nothing_that_is_there(
    cluster: Cluster, config: helm.Config, chart: Path, client: Client, url: str, values: Values
) -> None:
    def built() -> str:
        (pod,) = pods(cluster)
        listing = ["sh", "-c", "stat -c '%n %Y' /opt/nim/.cache/artifacts/*/manifest.json"]
        return cluster.kubectl("exec", "--namespace", NAMESPACE, pod, "--", *listing)

    before = built()
    config.upgrade(chart, RELEASE, merged(values, {"podLabels": {"changed": "yes"}}), wait="watcher", timeout=SECONDS)
    cluster.wait("one pod is there", lambda: len(pods(cluster)) == 1, SECONDS)
    assert built() == before
    assert client.complete(url, "")[0] == 200


def test_what_cannot_be_built_fails_the_upgrade_and_the_old_pods_go_on(
    cluster: Cluster, config: helm.Config, chart: Path, client: Client, url: str, values: Values
) -> None:
    before = pods(cluster)
    wrong = merged(values, {"settings": {"model_profile": "qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"}})
    with pytest.raises(helm.HelmError, match=f"{JOB}|hook|BackoffLimit"):
        config.upgrade(chart, RELEASE, wrong, wait="watcher", timeout=SECONDS)
    assert pods(cluster) == before
    assert client.complete(url, "")[0] == 200
    (tried,) = cluster.get("pods", "--namespace", NAMESPACE, f"--selector=job-name={JOB}")["items"]
    (status,) = tried["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == ExitCode.MACHINE
    cluster.kubectl("delete", "job", JOB, "--namespace", NAMESPACE)
    config.upgrade(chart, RELEASE, values, wait="watcher", timeout=SECONDS)


def copying(image: str, pull: str) -> dict[str, Any]:
    """The pod of docs/kubernetes.md, with this cluster's image."""
    blocks = re.findall(r"<<'END'\n(.*?)\nEND", (ROOT / "docs" / "kubernetes.md").read_text(), re.DOTALL)
    (pod,) = [each for each in map(yaml.safe_load, blocks) if each["kind"] == "Pod"]
    assert isinstance(pod, dict)
    pod["metadata"]["namespace"] = NAMESPACE
    pod["spec"]["containers"][0].update(image=image, imagePullPolicy=pull)
    return pod


def test_a_cache_is_copied_as_the_documentation_says(
    cluster: Cluster, config: helm.Config, chart: Path, client: Client, url: str, values: Values
) -> None:
    cluster.claim(COPY, NAMESPACE)
    pod = copying(cluster.image, cluster.pull)
    cluster.apply(pod)
    name = pod["metadata"]["name"]

    def phase() -> str:
        return str(cluster.get("pod", name, "--namespace", NAMESPACE)["status"]["phase"])

    cluster.wait("the copy has ended", lambda: phase() in ("Succeeded", "Failed"), SECONDS)
    assert phase() == "Succeeded", cluster.kubectl("logs", "--namespace", NAMESPACE, name)

    elsewhere = {"build": {"enabled": False}, "cache": {"existingClaim": COPY}}
    serving = merged(values, elsewhere, {"settings": {"build_on_start": False}})
    config.upgrade(chart, RELEASE, serving, wait="watcher", timeout=SECONDS)
    cluster.wait("one pod is there", lambda: len(pods(cluster)) == 1, SECONDS)
    assert client.complete(url, "")[0] == 200
