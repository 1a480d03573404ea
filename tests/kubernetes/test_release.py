"""A release from its installation to its end, by the real Helm on a real cluster."""

import base64
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import helm_python as helm
import pytest

from tests.helm.chart import NAME, RELEASE, Values, merged
from tests.kubernetes.client import Client
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.release import NAMESPACE, SECONDS, pods, restarts, url_of
from tests.standin.certificate import make_certificate

ROLLING: Values = {"cache": {"enabled": False}}
HANG = """
import os, pathlib, signal
for each in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    line = each.read_text().split(chr(0))
    if "triton_python_backend_stub" in line[0] and any("/tensorrt_llm/" in part for part in line):
        os.kill(int(each.parent.name), signal.SIGSTOP)
        print(each.parent.name)
"""
"""Stops the engine's process within a pod, as a driver that does not return would."""


@pytest.fixture(scope="module")
def values(cluster: Cluster, values_of_all: Values) -> Values:
    own = {"cache": {"enabled": True, "size": "1Gi", "storageClass": cluster.storage_class}}
    return merged(values_of_all, own, {"apiKeys": {"secret": "coder-keys"}})


def store_keys(cluster: Cluster, *keys: str) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "coder-keys", "namespace": NAMESPACE}}
    cluster.apply({**secret, "stringData": {"keys": "\n".join(["# ours", *keys])}})


@pytest.fixture(scope="module")
def url(cluster: Cluster, config: helm.Config, chart: Path, values: Values) -> str:
    """Of the Service, once Helm says that the release is there."""
    store_keys(cluster, "kept", "old")
    release = config.install(chart, RELEASE, values, wait="watcher", timeout=SECONDS)
    assert release["status"] == "deployed"
    return url_of()


def statuses(client: Client, url: str, *keys: str) -> list[int]:
    return [client.complete(url, key)[0] for key in keys]


def replaced(cluster: Cluster, before: list[str]) -> None:
    """Waits until there is one pod, and it is another."""
    cluster.wait("the old pod is gone", lambda: len(now := pods(cluster)) == 1 and not set(now) & set(before), SECONDS)


def test_a_release_answers_those_with_a_key(client: Client, url: str) -> None:
    assert statuses(client, url, "kept", "old", "wrong") == [200, 200, 401]


def test_helm_test_completes(config: helm.Config, url: str) -> None:
    config.test(RELEASE, timeout=SECONDS)


def test_new_keys_are_read_without_a_restart(
    cluster: Cluster, client: Client, url: str, seen: Callable[[str], None]
) -> None:
    before = pods(cluster)
    store_keys(cluster, "kept", "new")
    took = cluster.wait("the new key is known", lambda: statuses(client, url, "new") == [200], SECONDS)
    seen(f"after {took:.0f} s")
    assert statuses(client, url, "kept", "old") == [200, 401]
    assert pods(cluster) == before


def test_changed_settings_replace_the_pod_that_holds_the_volume(
    cluster: Cluster, config: helm.Config, chart: Path, client: Client, url: str, values: Values
) -> None:
    before = pods(cluster)
    changed = merged(values, {"settings": {"default_max_tokens": 4}})
    config.upgrade(chart, RELEASE, changed, wait="watcher", timeout=SECONDS)
    replaced(cluster, before)
    usage = client.complete(url, "kept", max_tokens=None)[1]["usage"]
    assert isinstance(usage, dict)
    assert usage["completion_tokens"] == 4


def test_no_request_fails_while_pods_are_replaced(
    cluster: Cluster,
    config: helm.Config,
    chart: Path,
    client: Client,
    url: str,
    values: Values,
    seen: Callable[[str], None],
) -> None:
    before = pods(cluster)
    config.upgrade(chart, RELEASE, merged(values, ROLLING), wait="watcher", timeout=SECONDS)
    replaced(cluster, before)
    before = pods(cluster)
    with client.load(url, "kept") as told:
        changed = merged(values, ROLLING, {"settings": {"default_max_tokens": 5}})
        config.upgrade(chart, RELEASE, changed, wait="watcher", timeout=SECONDS)
        replaced(cluster, before)
    seen(f"{told.asked} requests, {told.streamed} streamed, {len(told.wrong)} failed")
    assert told.streamed > 6
    assert told.wrong == []


def store_certificate(cluster: Cluster, place: Path) -> str:
    """A new one for the Service in the Secret; returns it as PEM."""
    named = ("-days", "1", "-addext", f"subjectAltName=DNS:{NAME}.{NAMESPACE}.svc")
    certificate = make_certificate(place / "certificate.pem", NAME, *named)
    key = certificate.with_suffix(".key")
    files = {"tls.crt": certificate.read_text(), "tls.key": key.read_text(), "ca.crt": certificate.read_text()}
    metadata = {"name": "certificate", "namespace": NAMESPACE}
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata}
    cluster.apply({**secret, "stringData": files})
    return certificate.read_text()


def test_a_renewed_certificate_is_taken_up_by_the_pod_that_runs(
    cluster: Cluster,
    config: helm.Config,
    chart: Path,
    client: Client,
    url: str,
    values: Values,
    tmp_path: Path,
    seen: Callable[[str], None],
) -> None:
    first = store_certificate(cluster, tmp_path)
    before = pods(cluster)
    encrypted = merged(values, ROLLING, {"tls": {"secret": "certificate"}})
    config.upgrade(chart, RELEASE, encrypted, wait="watcher", timeout=SECONDS)
    replaced(cluster, before)
    secure = url.replace("http://", "https://")
    assert (statuses(client, url, "kept"), statuses(client, secure, "kept")) == ([0], [200])
    assert client.certificate(secure) == first
    config.test(RELEASE, timeout=SECONDS)

    before = pods(cluster)
    renewed = store_certificate(cluster, tmp_path)
    took = cluster.wait("the renewed certificate is shown", lambda: client.certificate(secure) == renewed, SECONDS)
    seen(f"after {took:.0f} s, without a restart")
    assert (pods(cluster), restarts(cluster)) == (before, 0)
    config.test(RELEASE, timeout=SECONDS)


def test_the_key_that_the_chart_has_made_outlives_upgrades_and_what_is_added_stays(
    cluster: Cluster, config: helm.Config, chart: Path, client: Client, url: str, values: Values
) -> None:
    def stored() -> dict[str, str]:
        found: dict[str, str] = cluster.get("secret", f"{NAME}-keys", "--namespace", NAMESPACE)["data"]
        return found

    made = merged(values, ROLLING, {"apiKeys": {"secret": ""}})
    before = pods(cluster)
    config.upgrade(chart, RELEASE, made, wait="watcher", timeout=SECONDS)
    replaced(cluster, before)
    key = base64.b64decode(stored()["keys"]).decode()
    assert statuses(client, url, key, "kept") == [200, 401]
    both = base64.b64encode(f"{key}\nsecond\n".encode()).decode()
    patch = f'--patch={{"data":{{"keys":"{both}"}}}}'
    cluster.kubectl("patch", "secret", f"{NAME}-keys", "--namespace", NAMESPACE, patch)
    config.upgrade(chart, RELEASE, merged(made, {"podLabels": {"changed": "yes"}}), wait="watcher", timeout=SECONDS)
    assert stored() == {"keys": both}
    config.test(RELEASE, timeout=SECONDS)


def test_an_engine_that_hangs_is_started_anew(
    cluster: Cluster,
    config: helm.Config,
    chart: Path,
    client: Client,
    url: str,
    values: Values,
    seen: Callable[[str], None],
) -> None:
    before = pods(cluster)
    hasty = merged(values, ROLLING, {"settings": {"hang_seconds": 5, "drain_seconds": 1}})
    config.upgrade(chart, RELEASE, hasty, wait="watcher", timeout=SECONDS)
    replaced(cluster, before)
    (pod,) = pods(cluster)
    stopped = cluster.kubectl("exec", "--namespace", NAMESPACE, pod, "--", "python3", "-c", HANG)
    assert len(stopped.split()) == 1, stopped
    with ThreadPoolExecutor(1) as other:
        hung = other.submit(client.complete, url, "kept")
        started = time.monotonic()
        cluster.wait("the kubelet starts the container anew", lambda: restarts(cluster) == 1, SECONDS)
        cluster.wait("it answers again", lambda: statuses(client, url, "kept") == [200], SECONDS)
        seen(f"answers again {time.monotonic() - started:.0f} s after it hung")
        assert hung.result()[0] != 200
    assert pods(cluster) == [pod]


def test_the_volume_outlives_the_release_and_is_taken_over(
    cluster: Cluster, config: helm.Config, chart: Path, client: Client, url: str, values: Values
) -> None:
    config.upgrade(chart, RELEASE, values, wait="watcher", timeout=SECONDS)
    cluster.wait("one pod is there", lambda: len(pods(cluster)) == 1, SECONDS)
    claim = cluster.get("pvc", f"{NAME}-cache", "--namespace", NAMESPACE)["metadata"]["uid"]
    config.uninstall(RELEASE)
    cluster.wait("the pods are gone", lambda: pods(cluster) == [], SECONDS)
    selector = f"--selector=app.kubernetes.io/instance={RELEASE}"
    kinds = "deployments,services,configmaps,secrets,serviceaccounts,networkpolicies,jobs"
    assert cluster.get(kinds, "--namespace", NAMESPACE, selector)["items"] == []
    config.install(chart, RELEASE, values, wait="watcher", timeout=SECONDS)
    assert statuses(client, url, "kept") == [200]
    assert cluster.get("pvc", f"{NAME}-cache", "--namespace", NAMESPACE)["metadata"]["uid"] == claim
