"""A release from its installation to its end, by the real Helm on a real cluster of one node."""

import base64
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import helm_python as helm
import httpx
import pytest

from tests.helm.chart import CHART, CPU, NAME, NAMESPACE, RELEASE, Values, merged
from tests.images.podman import say
from tests.kubernetes.cluster import Cluster

VALUES = merged(
    CPU,
    {
        "image": {"repository": "localhost/nimble-coder", "tag": "runtime-cpu", "pullPolicy": "Never"},
        "apiKeys": {"secret": "coder-keys"},
        "cache": {"enabled": True, "size": "1Gi", "storageClass": "by-hand"},
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
    },
)
ROLLING: Values = {"cache": {"enabled": False}}
BODY = {"model": "qwen2.5-coder", "prompt": "def add(a, b):", "max_tokens": 16}
SECONDS = 180


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without its kubeVersion: Debian's Kubernetes is 1.20, which lacks only kinds that are not asked for here."""
    copy = tmp_path_factory.mktemp("chart") / CHART.name
    shutil.copytree(CHART, copy)
    description = (copy / "Chart.yaml").read_text().splitlines()
    (copy / "Chart.yaml").write_text("\n".join(line for line in description if not line.startswith("kubeVersion")))
    return copy


@pytest.fixture(scope="module")
def config(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[helm.Config]:
    """A namespace with keys and a volume."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    store_keys(cluster, "kept", "old")
    place = tmp_path_factory.mktemp("volume")
    place.chmod(0o2777)
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "by-hand"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "by-hand",
            "hostPath": {"path": str(place)},
        },
    }
    cluster.apply(volume)
    with helm.Config(kubeconfig_path=cluster.kubeconfig, namespace=NAMESPACE) as config:
        yield config


def store_keys(cluster: Cluster, *keys: str) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "coder-keys", "namespace": NAMESPACE}}
    cluster.apply({**secret, "stringData": {"keys": "\n".join(["# ours", *keys])}})


@pytest.fixture(scope="module")
def url(cluster: Cluster, config: helm.Config, chart: Path) -> str:
    """Of the Service, once Helm says that the release is there."""
    started = time.monotonic()
    release = config.install(chart, RELEASE, VALUES, wait="watcher", timeout=SECONDS)
    say(f"installed after {time.monotonic() - started:.1f} s")
    assert release["status"] == "deployed"
    address = cluster.get("service", NAME, "--namespace", NAMESPACE)["spec"]["clusterIP"]
    cluster.publish(f"{NAME}.{NAMESPACE}.svc", address)
    return f"http://{address}:8000/v1/completions"


def complete(url: str, key: str) -> int:
    """The status of one request on a connection of its own."""
    try:
        return httpx.post(url, json=BODY, headers={"authorization": f"Bearer {key}"}, timeout=30).status_code
    except httpx.HTTPError:
        return 0


def pods(cluster: Cluster) -> list[str]:
    selector = "--selector=app.kubernetes.io/component=server"
    return [each["metadata"]["name"] for each in cluster.get("pods", "--namespace", NAMESPACE, selector)["items"]]


def test_a_release_answers_those_with_a_key(url: str) -> None:
    assert [complete(url, key) for key in ("kept", "old", "wrong")] == [200, 200, 401]


def test_helm_test_completes(config: helm.Config, url: str) -> None:
    config.test(RELEASE, timeout=SECONDS)


def test_new_keys_are_read_without_a_restart(cluster: Cluster, url: str) -> None:
    before = pods(cluster)
    store_keys(cluster, "kept", "new")
    cluster.wait("the new key is known", lambda: complete(url, "new") == 200, 180)
    assert [complete(url, key) for key in ("kept", "old")] == [200, 401]
    assert pods(cluster) == before


def test_changed_settings_replace_the_pod_that_holds_the_volume(
    cluster: Cluster, config: helm.Config, chart: Path, url: str
) -> None:
    before = pods(cluster)
    values = merged(VALUES, {"settings": {"default_max_tokens": 4}})
    config.upgrade(chart, RELEASE, values, wait="watcher", timeout=SECONDS)
    cluster.wait("the old pod is gone", lambda: not set(pods(cluster)) & set(before), 90)
    answer = httpx.post(url, json={**BODY, "max_tokens": None}, headers={"authorization": "Bearer kept"}, timeout=30)
    assert answer.json()["usage"]["completion_tokens"] == 4


@contextmanager
def load(url: str) -> Iterator[list[int]]:
    """Requests one after another, with their statuses."""
    statuses: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            statuses.append(complete(url, "kept"))

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        yield statuses
    finally:
        ended.set()
        for client in clients:
            client.join()


def test_no_request_fails_while_pods_are_replaced(cluster: Cluster, config: helm.Config, chart: Path, url: str) -> None:
    config.upgrade(chart, RELEASE, merged(VALUES, ROLLING), wait="watcher", timeout=SECONDS)
    cluster.wait("one pod is there", lambda: len(pods(cluster)) == 1, 90)
    before = pods(cluster)
    with load(url) as statuses:
        values = merged(VALUES, ROLLING, {"settings": {"default_max_tokens": 5}})
        config.upgrade(chart, RELEASE, values, wait="watcher", timeout=SECONDS)
        cluster.wait("the old pod is gone", lambda: not set(pods(cluster)) & set(before), 90)
    say(f"{len(statuses)} requests")
    assert len(statuses) > 20
    assert set(statuses) == {200}


def test_everything_works_under_tls(
    cluster: Cluster, config: helm.Config, chart: Path, url: str, tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    name = f"{NAME}.{NAMESPACE}.svc"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={NAME}"]
    command += ["-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    files = {"tls.crt": certificate.read_text(), "tls.key": key.read_text(), "ca.crt": certificate.read_text()}
    metadata = {"name": "certificate", "namespace": NAMESPACE}
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata}
    cluster.apply({**secret, "stringData": files})
    values = merged(VALUES, ROLLING, {"tls": {"secret": "certificate"}})
    config.upgrade(chart, RELEASE, values, wait="watcher", timeout=SECONDS)
    cluster.wait("one pod is there", lambda: len(pods(cluster)) == 1, 90)
    assert complete(url, "kept") == 0
    config.test(RELEASE, timeout=SECONDS)


def test_the_key_that_the_chart_has_made_outlives_upgrades_and_what_is_added_stays(
    cluster: Cluster, config: helm.Config, chart: Path, url: str
) -> None:
    def stored() -> dict[str, str]:
        found: dict[str, str] = cluster.get("secret", f"{NAME}-keys", "--namespace", NAMESPACE)["data"]
        return found

    made = merged(VALUES, ROLLING, {"apiKeys": {"secret": ""}})
    config.upgrade(chart, RELEASE, made, wait="watcher", timeout=SECONDS)
    cluster.wait("one pod is there", lambda: len(pods(cluster)) == 1, 90)
    key = base64.b64decode(stored()["keys"]).decode()
    assert [complete(url, each) for each in (key, "kept")] == [200, 401]
    both = base64.b64encode(f"{key}\nsecond\n".encode()).decode()
    cluster.kubectl(
        "patch", "secret", f"{NAME}-keys", "--namespace", NAMESPACE, f'--patch={{"data":{{"keys":"{both}"}}}}'
    )
    config.upgrade(chart, RELEASE, merged(made, {"podLabels": {"changed": "yes"}}), wait="watcher", timeout=SECONDS)
    assert stored() == {"keys": both}
    config.test(RELEASE, timeout=SECONDS)


def test_the_volume_outlives_the_release_and_is_taken_over(
    cluster: Cluster, config: helm.Config, chart: Path, url: str
) -> None:
    config.upgrade(chart, RELEASE, VALUES, wait="watcher", timeout=SECONDS)
    claim = cluster.get("pvc", f"{NAME}-cache", "--namespace", NAMESPACE)["metadata"]["uid"]
    config.uninstall(RELEASE)
    cluster.wait("the pods are gone", lambda: pods(cluster) == [], 90)
    config.install(chart, RELEASE, VALUES, wait="watcher", timeout=SECONDS)
    assert cluster.get("pvc", f"{NAME}-cache", "--namespace", NAMESPACE)["metadata"]["uid"] == claim
