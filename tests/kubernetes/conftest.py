"""One cluster for all tests: the one that NIMBLE_KUBECONFIG leads to, or one of its own with the CPU image on its node.

At the end there is a report, one line for each test with what it has seen.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import helm_python as helm
import pytest

from tests.helm.chart import CHART, CPU, RELEASE, Values, merged
from tests.kubernetes.client import Client
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.own_cluster import OwnCluster
from tests.kubernetes.release import NAMESPACE, SECONDS, pods

CLUSTER = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    if kubeconfig := os.environ.get("NIMBLE_KUBECONFIG"):
        pytestconfig.stash[CLUSTER] = kubeconfig
        yield described(Cluster(Path(kubeconfig), os.environ["NIMBLE_IMAGE"]), pytestconfig)
        return
    work = Path(os.environ["NIMBLE_KUBERNETES_WORK"])
    state = work / "state"
    state.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "state", state], check=True)  # gone with the mount namespace
    data = work / "data"
    own = OwnCluster(data / "kubeconfig", "localhost/nimble-coder:runtime-cpu", "Never", work / "bin", data, state)
    try:
        own.start()
        for name in ("pause.tar", "image.tar"):
            own.load(work / name)
        own.provide(4)
        yield described(own, pytestconfig)
    finally:
        own.stop()


def described(cluster: Cluster, config: pytest.Config) -> Cluster:
    """The cluster, of which the report says what it is."""
    lines = [f"Kubernetes {'.'.join(map(str, cluster.version))}, image {cluster.image}"]
    for node in cluster.get("nodes")["items"]:
        info = node["status"]["nodeInfo"]
        told = f"{info['kubeletVersion']}, {info['containerRuntimeVersion']}, {info['osImage']}"
        lines.append(f"node {node['metadata']['name']}: {told}")
    config.stash[CLUSTER] = "\n".join(lines)
    return cluster


@pytest.fixture(scope="session")
def namespace(cluster: Cluster) -> Iterator[str]:
    """Made here: one that is there already is somebody else's."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    yield NAMESPACE
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="session")
def config(cluster: Cluster, namespace: str) -> Iterator[helm.Config]:
    with helm.Config(kubeconfig_path=cluster.kubeconfig, namespace=namespace) as config:
        yield config


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing(cluster: Cluster, config: helm.Config) -> Iterator[None]:
    """No test's release meets another's, whatever becomes of it."""
    yield
    if any(each["name"] == RELEASE for each in config.list(all_states=True)):
        config.uninstall(RELEASE)
    cluster.wait("the pods are gone", lambda: pods(cluster) == [], SECONDS)


@pytest.fixture(scope="session")
def client(cluster: Cluster, namespace: str) -> Client:
    client = Client(cluster, namespace)
    client.start()
    return client


@pytest.fixture(scope="session")
def chart(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitting(cluster, CHART, tmp_path_factory.mktemp("chart"))


def fitting(cluster: Cluster, chart: Path, place: Path) -> Path:
    """A copy, on an older Kubernetes without its kubeVersion: Debian's is 1.20, and lacks only kinds that are not
    asked for here."""
    copy = place / chart.name
    shutil.copytree(chart, copy)
    if cluster.version < (1, 23):
        description = (copy / "Chart.yaml").read_text().splitlines()
        kept = [line for line in description if not line.startswith("kubeVersion")]
        (copy / "Chart.yaml").write_text("\n".join(kept))
    return copy


@pytest.fixture(scope="session")
def values_of_all(cluster: Cluster) -> Values:
    """The CPU image as this cluster has it, with little of a node."""
    repository, _, tag = cluster.image.rpartition(":")
    image = {"repository": repository, "tag": tag, "pullPolicy": cluster.pull}
    return merged(CPU, {"image": image, "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}}})


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes what a test has seen, for the report."""
    return lambda text: record_property("seen", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The report."""
    write = terminalreporter.write_line
    terminalreporter.section("report")
    write(config.stash.get(CLUSTER, "there was no cluster"))
    for outcome in ("passed", "skipped", "failed", "error"):
        for each in terminalreporter.stats.get(outcome, []):
            name = each.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            figures = "; ".join(str(value) for key, value in each.user_properties if key == "seen")
            write(f"{outcome:8}{name}" + (f" ({figures})" if figures else ""))
