"""What the tests know of the release on a cluster."""

from tests.helm.chart import NAME
from tests.kubernetes.cluster import Cluster

NAMESPACE = "nimble-coder-test"
"""Made for the tests and removed after them."""
SECONDS = 240
"""Until anything has happened, also on a machine that does much else."""


def url_of() -> str:
    """The Service's, within the cluster."""
    return f"http://{NAME}.{NAMESPACE}.svc:8000"


def serving(cluster: Cluster) -> list[dict[str, dict[str, list[dict[str, int]]]]]:
    """The pods that serve."""
    found: list[dict[str, dict[str, list[dict[str, int]]]]] = cluster.get(
        "pods", "--namespace", NAMESPACE, "--selector=app.kubernetes.io/component=server"
    )["items"]
    return found


def pods(cluster: Cluster) -> list[str]:
    """Their names, of those too that are ending."""
    return [str(each["metadata"]["name"]) for each in serving(cluster)]


def restarts(cluster: Cluster) -> int:
    """How often their containers have been started anew, together."""
    return sum(each["restartCount"] for pod in serving(cluster) for each in pod["status"].get("containerStatuses", []))
