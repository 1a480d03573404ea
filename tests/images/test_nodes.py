"""One engine on two nodes: what the chart renders, in two containers with a real Open MPI and a real SSH server.

`tritonserver` is a stand-in that says where it runs, and the image is a small one that is laid out as the target
runtime-nodes is: what is shown is where ranks start, with what, and how all of it ends.
"""

import base64
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nimble_coder.processes.triton_container import ContainerTriton
from tests.helm.chart import NODES, Rendered, render
from tests.images.bases import PYTHON, make_python_base
from tests.images.podman import HARDENED, Container, Podman

IMAGE = "localhost/nimble-coder:nodes"
LEADER, WORKER = "coder-nimble-coder-group-0", "coder-nimble-coder-group-0-1"
DOMAIN = "coder-nimble-coder-group.tools"
PLACES = {LEADER: "10.213.77.201", WORKER: "10.213.77.202"}
DOCKERFILE = f"""
FROM {PYTHON}
RUN apt-get update && apt-get install --yes --no-install-recommends openmpi-bin openssh-server \\
    && rm -f /etc/ssh/ssh_host_* && useradd --uid 1000 --gid 0 --home-dir /tmp --no-create-home nimble
COPY tritonserver /opt/tritonserver/bin/tritonserver
ENV HOME=/tmp LD_LIBRARY_PATH=/of/the/image
USER 1000:0
"""
TRITONSERVER = """#!/bin/bash
echo "rank $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE on $(hostname) with $LD_LIBRARY_PATH: $*"
trap 'echo "rank $OMPI_COMM_WORLD_RANK ends"; exit 0' TERM
while :; do sleep 0.1; done
"""
RANKS = 4


@dataclass(frozen=True)
class Group:
    """What a LeaderWorkerSet's controller makes of the rendered object: a leader and its worker."""

    podman: Podman
    rendered: Rendered
    secrets: Path

    def start(self, stack: ExitStack, pod: str, script: str, environment: dict[str, str]) -> Container:
        """A pod's container, which runs a shell's script as the chart has it."""
        told = {"LWS_LEADER_ADDRESS": f"{LEADER}.{DOMAIN}", "LWS_GROUP_SIZE": "2", **environment}
        options = [
            *HARDENED,
            "--group-add=1000",
            "--entrypoint=sh",
            f"--hostname={pod}",
            f"--ip={PLACES[pod]}",
            f"--volume={self.secrets}:/etc/nimble-coder/ranks:ro",
            *(f"--add-host={name}.{DOMAIN}:{address}" for name, address in PLACES.items()),
            *(f"--env={name}={value}" for name, value in told.items()),
        ]
        return stack.enter_context(self.podman.start(IMAGE, "-euc", script, options=options))

    def worker(self, stack: ExitStack) -> Container:
        (container,) = self.rendered.workers[0]["spec"]["containers"]
        return self.start(stack, WORKER, container["args"][0], {})

    def leader(self, stack: ExitStack) -> Container:
        """The container that waits for the workers, and what `nimble-coder serve` starts then for four ranks."""
        (wait,) = self.rendered.pod["initContainers"]
        hosts = (f"{LEADER}.{DOMAIN}",) * 2 + (f"{WORKER}.{DOMAIN}",) * 2
        command = ContainerTriton(Path("/opt/tritonserver"), RANKS, hosts=hosts).launch(["--http-port=1"], "x-")
        mpi = {e["name"]: e["value"] for e in self.rendered.container["env"] if e["name"].startswith("OMPI_")}
        return self.start(stack, LEADER, f"{wait['args'][0]}\nexec {shlex.join(command)}", mpi)


@pytest.fixture(scope="module")
def group(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Group:
    make_python_base(podman)
    context = tmp_path_factory.mktemp("context")
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "tritonserver").write_text(TRITONSERVER)
    (context / "tritonserver").chmod(0o755)
    podman.build(context, IMAGE)
    rendered = render(NODES)
    return Group(podman, rendered, as_mounted(rendered.one("Secret", "-ranks"), tmp_path_factory.mktemp("ranks")))


def as_mounted(secret: dict[str, Any], place: Path) -> Path:
    """The files of a Secret as the kubelet mounts them under `fsGroup` 1000 and `defaultMode` 0440."""
    content = {name: base64.b64decode(value) for name, value in secret["data"].items()}
    for name, value in {**content, **{name: text.encode() for name, text in secret["stringData"].items()}}.items():
        (place / name).write_bytes(value)
        os.chown(place / name, 0, 1000)
        (place / name).chmod(0o440)
    place.chmod(0o755)
    return place


@pytest.fixture
def pods(group: Group) -> Iterator[tuple[Container, Container]]:
    """Leader and worker with their ranks; the worker comes later than the leader, which waits for it."""
    with ExitStack() as stack:
        leader = group.leader(stack)
        wait_for(lambda: "port 2222: " in leader.log)
        assert "rank 0" not in said(leader)
        worker = group.worker(stack)
        wait_for(lambda: said(leader).count(f" of {RANKS} on ") == RANKS)
        yield leader, worker


def said(container: Container) -> str:
    """Its standard output and error."""
    done = container.podman.call("logs", container.name)
    return done.stdout + done.stderr


def signalled(container: Container, rank: int, signal: str) -> None:
    """Sends a signal to one rank of those that run there: to its first process, since those it starts come and go."""
    found = f"grep -lsz OMPI_COMM_WORLD_RANK={rank} /proc/[0-9]*/environ | cut -d/ -f3 | sort -n | head -n 1"
    script = f"{found} | xargs kill -{signal}"
    assert container.execute("sh", "-c", script).returncode == 0


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def pre_stop(group: Group) -> list[str]:
    """What the kubelet runs before it ends a worker."""
    (container,) = group.rendered.workers[0]["spec"]["containers"]
    command: list[str] = container["lifecycle"]["preStop"]["exec"]["command"]
    return command


def test_ranks_fill_the_leaders_node_and_then_the_workers(pods: tuple[Container, Container]) -> None:
    leader, _ = pods
    for rank, pod in enumerate((LEADER, LEADER, WORKER, WORKER)):
        (line,) = [line for line in said(leader).splitlines() if line.startswith(f"rank {rank} of {RANKS} on ")]
        assert line.startswith(f"rank {rank} of {RANKS} on {pod} with /of/the/image: --http-port=1 ")
        assert ("--load-model=tensorrt_llm" in line) == (rank > 0)


def test_a_worker_that_is_told_to_end_waits_for_the_leader(group: Group, pods: tuple[Container, Container]) -> None:
    leader, worker = pods
    assert worker.execute("timeout", "2", *pre_stop(group)).returncode == 124
    group.podman.run("kill", "--signal=TERM", leader.name)  # as `TritonServer.stop` tells mpirun
    leader.wait(60)
    assert worker.execute("timeout", "60", *pre_stop(group)).returncode == 0


def test_a_rank_that_dies_on_another_node_ends_all_of_them(group: Group, pods: tuple[Container, Container]) -> None:
    """The leader's container ends then, the kubelet starts it anew, and the controller replaces the group."""
    leader, worker = pods
    signalled(worker, 3, "KILL")
    assert leader.wait(60) != 0
    assert worker.execute("timeout", "60", *pre_stop(group)).returncode == 0


def test_nobody_without_the_key_starts_anything_on_a_worker(group: Group) -> None:
    with ExitStack() as stack:
        worker = group.worker(stack)
        wait_for(lambda: "Server listening" in said(worker))
        ssh = "ssh -F none -p 2222 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes"
        stranger = group.start(stack, LEADER, f"{ssh} {WORKER}.{DOMAIN} true", {})
        assert stranger.wait(60) == 255, said(stranger)
        assert "Permission denied (publickey)" in said(stranger)
