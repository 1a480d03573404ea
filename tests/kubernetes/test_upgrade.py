"""An upgrade from the chart that people have to the one of this tree."""

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import helm_python as helm
import yaml

from tests.helm.chart import CHART, NAME, RELEASE, ROOT, Values, merged
from tests.kubernetes.client import Client
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.conftest import fitting
from tests.kubernetes.release import NAMESPACE, SECONDS, pods, url_of

BEFORE = "41003fdf5d095410093fc38bd70aa7eb4ec18da5"
"""There has been no release yet, so this is the chart before it was closed by default: it made neither a key nor a
network policy."""


def earlier(place: Path) -> Path:
    """The chart of that commit."""
    folder = CHART.relative_to(ROOT)
    archive = subprocess.run(["git", "archive", BEFORE, str(folder)], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--extract"], cwd=place, input=archive, check=True)
    return place / folder


def test_an_upgrade_from_the_earlier_chart_fails_no_request_and_closes_the_service(
    cluster: Cluster,
    config: helm.Config,
    chart: Path,
    client: Client,
    values_of_all: Values,
    tmp_path: Path,
    seen: Callable[[str], None],
) -> None:
    old = fitting(cluster, earlier(tmp_path), tmp_path / "copy")
    own = {name: values_of_all[name] for name in ("image", "resources")}
    opened = merged(yaml.safe_load((old / "values-cpu.yaml").read_text()), own)
    config.install(old, RELEASE, opened, wait="watcher", timeout=SECONDS)
    before = pods(cluster)
    assert client.complete(url_of(), "")[0] == 200

    with client.load(url_of(), "") as told:
        still_open = merged(values_of_all, {"auth": {"enabled": False}})
        config.upgrade(chart, RELEASE, still_open, wait="watcher", timeout=SECONDS)
        cluster.wait("the old pod is gone", lambda: not set(pods(cluster)) & set(before), SECONDS)
    seen(f"{told.asked} requests, {told.streamed} streamed, {len(told.wrong)} failed")
    assert told.wrong == []

    config.upgrade(chart, RELEASE, values_of_all, wait="watcher", timeout=SECONDS)
    cluster.wait("one pod is there", lambda: len(pods(cluster)) == 1, SECONDS)
    made = cluster.get("secret", f"{NAME}-keys", "--namespace", NAMESPACE)["data"]["keys"]
    key = base64.b64decode(made).decode()
    assert [client.complete(url_of(), each)[0] for each in ("", key)] == [401, 200]
