"""The chart's pods, run by podman from what Helm renders.

Podman 4.3 is not Kubernetes, so `tests/helm` looks at probes, Services and everything else that it does not do.
"""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from nimble_coder.client.grpc import CompletionClient
from tests.helm.chart import CPU, NAME, NAMESPACE, Rendered, render
from tests.images.podman import Container, Podman
from tests.images.service import MODEL, wait_ready

SECRET: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "coder-keys"},
    "data": {"keys": base64.b64encode(b"# ours\nthe-key\n").decode()},
}


@pytest.fixture(scope="module")
def rendered(cpu_image: str) -> Rendered:
    repository, tag = cpu_image.split(":")
    image = {"repository": repository, "tag": tag, "pullPolicy": "Never"}
    return render(CPU, {"image": image, "apiKeys": {"secret": "coder-keys"}, "settings": {"strict_sampling": True}})


@pytest.fixture(scope="module")
def served(podman: Podman, rendered: Rendered) -> Iterator[Container]:
    deployment = rendered.one("Deployment")
    playable(deployment["spec"]["template"]["spec"])
    with podman.play(SECRET, rendered.one("ConfigMap", "-settings"), deployment) as container:
        wait_ready(container)
        yield container


def playable(pod: dict[str, Any]) -> None:
    """Takes away what podman 4.3 gets wrong."""
    (container,) = pod["containers"]
    container.pop("ports", None)  # published on the host
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        container.pop(probe, None)  # a call of curl, which the image does not have
    # On the disk, and root's: without it there is podman's own.
    container["volumeMounts"] = [each for each in container["volumeMounts"] if each["mountPath"] != "/dev/shm"]  # noqa: S108
    pod["volumes"] = [each for each in pod["volumes"] if each["name"] != "shared-memory"]
    for volume in pod["volumes"]:
        if "secret" in volume:
            volume["secret"]["optional"] = False  # crashes where it is not said


@pytest.fixture(scope="module")
def key(served: Container) -> str:
    """Podman 4.3 mounts a Secret as it is encoded, later ones as Kubernetes does."""
    return served.execute("tail", "-n", "1", "/etc/nimble-coder/keys/keys").stdout.strip()


def test_it_answers_with_a_key_from_the_mounted_secret_only(served: Container, key: str) -> None:
    url = f"http://{served.address}:8000/v1/completions"
    body = {"model": MODEL, "prompt": "def add(a, b):", "max_tokens": 16}
    assert httpx.post(url, json=body, timeout=60).status_code == 401
    with httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        assert len(client.post(url, json=body).json()["choices"][0]["text"]) > 10
    with CompletionClient(f"{served.address}:8001", api_key=key) as client:
        assert len(client.complete("def add(a, b):", 16).token_ids) == 16


def test_the_settings_of_the_values_are_in_effect(served: Container) -> None:
    told = served.execute("nimble-coder", "serve", "--dry-run")
    assert told.returncode == 0, told.stderr
    file = "file /etc/nimble-coder/settings/settings.yaml"
    lines = {line.split()[0]: line for line in told.stdout.splitlines() if file in line}
    assert {"strict_sampling", "jsonl_logging", "api_keys_file"} <= set(lines), told.stdout


def test_it_writes_where_it_may_and_nowhere_else(served: Container) -> None:
    for place, allowed in {"/tmp": True, "/opt/nim/.cache": True, "/opt/nimble-coder": False, "/": False}.items():  # noqa: S108
        assert (served.execute("touch", f"{place}/written").returncode == 0) == allowed, place
    assert served.execute("id", "-u").stdout.strip() == "1000"
    status = served.execute("cat", "/proc/1/status").stdout
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def test_what_helm_test_runs_completes(podman: Podman, served: Container, rendered: Rendered) -> None:
    test = rendered.one("Pod", "-test")
    playable(test["spec"])
    test["spec"]["hostAliases"] = [{"ip": served.address, "hostnames": [f"{NAME}.{NAMESPACE}.svc"]}]
    with podman.play(SECRET, test) as container:
        assert container.wait(60) == 0, container.log
        said = podman.run("logs", container.name)
    assert said.count("\n") >= 4, said
    assert "gRPC:" in said
    assert "HTTP:" in said
