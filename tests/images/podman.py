"""Podman in a working directory of its own, configured to run where there is neither systemd nor a registry."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

# crun refuses hybrid cgroups; without systemd there is no cgroup manager and no journal. Podman's own defaults for the
# limits are above what an unprivileged root may set.
CONTAINERS = """
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]
[network]
network_backend = "netavark"
network_config_dir = "{work}/networks"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
STORAGE = """
[storage]
driver = "overlay"
graphroot = "{work}/storage"
runroot = "{work}/run"
"""
SUBNET = "10.213.77.0/24"
HARDENED = (
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--read-only",
    "--read-only-tmpfs=false",  # podman's own extra would hide what Kubernetes shows
    "--tmpfs=/tmp:exec,mode=1777",
)
"""How docs/container.md says to run the images."""


def say(text: str) -> None:
    """Progress, past pytest's capture."""
    print(f"\033[1;32m==>\033[0m {text}", file=sys.__stderr__, flush=True)


class PodmanError(RuntimeError):
    """A podman command that failed, with what it said."""


@dataclass(frozen=True)
class Container:
    """A started container."""

    podman: "Podman"
    name: str
    started: float
    """`time.monotonic()` just before podman was asked."""

    def state(self, template: str) -> str:
        return self.podman.run("inspect", "--format", template, self.name).strip()

    @property
    def address(self) -> str:
        """Its address on the internal network, which the host is part of and the rest of the world is not."""
        address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        if pod := self.state("{{.Pod}}"):
            infra = self.podman.run("pod", "inspect", "--format", "{{.InfraContainerID}}", pod).strip()
            return Container(self.podman, infra, self.started).state(address) if infra != self.name else ""
        return self.state(address)

    @property
    def is_running(self) -> bool:
        return self.state("{{.State.Running}}") == "true"

    @property
    def pid(self) -> int:
        """Of the container's first process, on the host."""
        return int(self.state("{{.State.Pid}}"))

    @property
    def log(self) -> str:
        """Everything it wrote, standard output and error in order."""
        command = self.podman.command("logs", self.name)
        return subprocess.run(command, env=self.podman.environment, capture_output=True, text=True, check=True).stderr

    @property
    def last_line(self) -> str:
        return self.log.rstrip().rpartition("\n")[2]

    def find(self, text: str) -> int:
        """The host's id of the one process of the container whose command line has the text."""
        pids = [line.split()[0] for line in self.podman.run("top", self.name, "hpid").splitlines()[1:]]
        lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in pids}
        (found,) = [pid for pid, line in lines.items() if text in line]
        return found

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.podman.call("exec", self.name, *command)

    def wait(self, timeout: float) -> int:
        """Waits for its end and returns the exit code."""
        deadline = time.monotonic() + timeout
        while self.is_running:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} still runs after {timeout} s:\n{self.log}")
            time.sleep(0.05)
        return int(self.state("{{.State.ExitCode}}"))


@dataclass
class Podman:
    """Podman whose images and containers are all this directory's."""

    work: Path
    count: int = 0
    build_options: list[str] = field(default_factory=list)
    """What every build needs on this machine: the host's network, secrets, and where packages are."""

    def __post_init__(self) -> None:
        for name in ("networks", "tmp", "logs"):
            (self.work / name).mkdir(parents=True, exist_ok=True)
        (self.work / "containers.conf").write_text(CONTAINERS.format(work=self.work))
        (self.work / "storage.conf").write_text(STORAGE.format(work=self.work))
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(self.work / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.work / "storage.conf"),
            "TMPDIR": str(self.work / "tmp"),  # build caches are kept below it
        }
        self.remove_containers()
        if self.call("network", "exists", "internal").returncode:
            self.run("network", "create", "--internal", f"--subnet={SUBNET}", "internal")

    def command(self, *arguments: str) -> list[str]:
        return ["podman", "--log-level=fatal", *arguments]

    def call(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Runs podman, whatever comes of it."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.work,  # where memory runs out, conmon leaves a file in its working directory
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def run(self, *arguments: str, timeout: float = 600) -> str:
        """Runs podman and returns its standard output; raises `PodmanError` where it fails."""
        done = self.call(*arguments, timeout=timeout)
        if done.returncode:
            raise PodmanError(f"podman {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def build(self, context: Path, tag: str, *options: str) -> float:
        """Builds an image and returns the seconds that took; the log is kept. Raises `PodmanError` with its end."""
        log = self.work / "logs" / f"{tag.replace('/', '_').replace(':', '_')}.log"
        arguments = ["build", "--format=docker", "--layers", "--pull=never", "--isolation=chroot", "--network=host"]
        arguments += [*self.build_options, *options, f"--tag={tag}", str(context)]
        started = time.monotonic()
        with log.open("w") as output:
            done = subprocess.run(
                self.command(*arguments), env=self.environment, stdout=output, stderr=output, timeout=1200, check=False
            )
        seconds = time.monotonic() - started
        if done.returncode:
            raise PodmanError(f"{' '.join(arguments)}\n...{log.read_text()[-3000:]}\n(whole log: {log})")
        say(f"built {tag} in {seconds:.1f} s")
        return seconds

    def exists(self, image: str) -> bool:
        return self.call("image", "exists", image).returncode == 0

    def config(self, image: str) -> dict[str, Any]:
        """What `inspect` says of an image."""
        return dict(json.loads(self.run("image", "inspect", image))[0])

    def layers(self, image: str) -> list[Path]:
        """The directories of an image's layers: also what a later layer hides is in one of them."""
        data = self.run("image", "inspect", "--format", "{{json .GraphDriver.Data}}", image)
        named = json.loads(data)
        return [Path(part) for key in ("UpperDir", "LowerDir") for part in named.get(key, "").split(":") if part]

    @contextmanager
    def start(
        self,
        image: str,
        *command: str,
        options: Sequence[str] = HARDENED,
        user: str = "1000:0",
        network: str = "internal",
    ) -> Iterator[Container]:
        """A container in the background, removed in the end."""
        self.count += 1
        name = f"test-{os.getpid()}-{self.count}"
        arguments = ["run", "--detach", "--no-healthcheck", f"--name={name}", f"--user={user}", f"--network={network}"]
        started = time.monotonic()
        self.run(*arguments, *options, image, *command)
        try:
            yield Container(self, name, started)
        finally:
            self.run("rm", "--force", "--time=0", name)

    def once(self, image: str, *command: str, options: Sequence[str] = HARDENED, user: str = "1000:0",
             network: str = "none") -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Runs a container to its end."""
        arguments = ["run", "--rm", "--no-healthcheck", f"--user={user}", f"--network={network}"]
        return self.call(*arguments, *options, image, *command)

    @contextmanager
    def play(self, *documents: dict[str, Any]) -> Iterator[Container]:
        """The container of the one pod that Kubernetes' objects describe; in the end it and its volumes are removed."""
        file = self.work / "tmp" / "pod.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        started = time.monotonic()
        played = self.run("kube", "play", "--network=internal", str(file))
        container = played.split("Container:\n")[1].split()[0]
        try:
            yield Container(self, container, started)
        finally:
            self.run("pod", "rm", "--force", "--time=0", self.run("inspect", "--format", "{{.Pod}}", container).strip())
            self.run("volume", "prune", "--force")  # another of the same name would find what is in it

    def remove_containers(self) -> None:
        """What an interrupted run left."""
        self.run("pod", "rm", "--all", "--force", "--time=0")
        self.run("rm", "--all", "--force", "--time=0")
        self.run("volume", "rm", "--all", "--force")
