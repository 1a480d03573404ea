"""A pod beside the release that sends requests, because only pods reach a Service in every cluster."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.kubernetes.cluster import Cluster

NAME = "client"
PROGRAM = Path(__file__).with_name("asking.py")


@dataclass
class Told:
    """What the client has seen of many requests."""

    asked: int = 0
    streamed: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Client:
    """Runs `asking.py` in its pod."""

    cluster: Cluster
    namespace: str

    def start(self) -> None:
        """Until the pod runs."""
        secured = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container = {
            "name": NAME,
            "image": self.cluster.image,
            "imagePullPolicy": self.cluster.pull,
            "command": ["sleep", "infinity"],
            "securityContext": secured,
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        }
        spec = {"containers": [container], "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0}
        metadata = {"name": NAME, "namespace": self.namespace}
        self.cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        self.cluster.kubectl(
            "wait", "--namespace", self.namespace, "--for=condition=Ready", f"pod/{NAME}", "--timeout=300s"
        )

    def command(self, *arguments: str) -> list[str]:
        kubectl = [
            "kubectl",
            f"--kubeconfig={self.cluster.kubeconfig}",
            "exec",
            "--stdin",
            "--namespace",
            self.namespace,
        ]
        return [*kubectl, NAME, "--", "python3", "-c", PROGRAM.read_text(), *arguments]

    def complete(self, url: str, key: str, **fields: object) -> tuple[int, dict[str, object]]:
        """Status and body of one request on a connection of its own; the status is 0 where there was none."""
        return self._once("complete", url, key, json.dumps(fields))

    def certificate(self, url: str) -> str:
        """What the service shows to a new connection, as PEM."""
        return str(self._once("certificate", url)[1]["certificate"])

    def _once(self, *arguments: str) -> tuple[int, dict[str, object]]:
        done = subprocess.run(self.command(*arguments), input="", capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the client failed: {done.stderr}")
        told = json.loads(done.stdout)
        return told["status"], told["body"]

    @contextmanager
    def load(self, url: str, key: str, clients: int = 2) -> Iterator[Told]:
        """Requests one after another by so many clients, every third streamed; complete once the block has ended."""
        told = Told()
        command = self.command("load", url, key, str(clients))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin
            assert process.stdout
            try:
                assert process.stdout.readline() == "asking\n"
                yield told
            finally:
                process.stdin.close()
                last = process.stdout.read()
        told.asked, told.streamed, told.wrong = json.loads(last)
