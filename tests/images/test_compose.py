"""compose.yaml brought up for real: docker-compose asks podman, which speaks Docker's API on a socket."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from nimble_coder.processes.triton import Addresses
from tests.images.bases import ROOT
from tests.images.podman import Container, Podman
from tests.images.service import complete_over_grpc_at, get, wait_ready

PROJECT = "compose-test"
VERSION = "composed"


@dataclass(frozen=True)
class Compose:
    """docker-compose with the profile `cpu`, on ports of its own."""

    environment: dict[str, str]

    def run(self, *arguments: str) -> None:
        command = ["docker-compose", "--project-name", PROJECT, "--profile", "cpu", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def addresses() -> Addresses:
    return Addresses.free()


@pytest.fixture
def compose(podman: Podman, cpu_image: str, addresses: Addresses) -> Iterator[Compose]:
    podman.run("tag", cpu_image, f"docker.io/library/nimble-coder:{VERSION}-cpu")
    socket = podman.work / "docker.sock"
    environment = {
        **os.environ,
        "DOCKER_HOST": f"unix://{socket}",
        "NIMBLE_VERSION": VERSION,
        "NIMBLE_HTTP_PORT": str(addresses.http_port),
        "NIMBLE_GRPC_PORT": str(addresses.grpc_port),
    }
    service = podman.command("system", "service", "--time=0", f"unix://{socket}")
    with subprocess.Popen(service, env=podman.environment, stderr=subprocess.DEVNULL) as process:
        try:
            while not socket.exists():
                assert process.poll() is None
                time.sleep(0.05)
            compose = Compose(environment)
            yield compose
            compose.run("down", "--volumes")
        finally:
            process.terminate()
            socket.unlink(missing_ok=True)


def test_the_cpu_profile_serves_on_this_machine_only_and_ends_cleanly(
    podman: Podman, compose: Compose, addresses: Addresses
) -> None:
    container = Container(podman, f"{PROJECT}_cpu_1", time.monotonic())
    compose.run("up", "--detach", "--no-build", "cpu")
    wait_ready(container)
    assert get(f"http://127.0.0.1:{addresses.http_port}/v1/health/ready")[0] == 200
    assert complete_over_grpc_at(f"127.0.0.1:{addresses.grpc_port}", "def add(a, b):", 8)
    published = podman.run("port", container.name).split()[2::3]
    assert sorted(published) == sorted(f"127.0.0.1:{port}" for port in (addresses.http_port, addresses.grpc_port))
    assert container.state("{{.HostConfig.ReadonlyRootfs}} {{.EffectiveCaps}}") == "true []"
    compose.run("stop")
    assert container.wait(60) == 0
    assert container.last_line.endswith("stopped")
