"""A Kubernetes cluster as a kubeconfig leads to it."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Cluster:
    """Used by all tests."""

    kubeconfig: Path
    image: str
    """Of the CPU service, with its tag, as the nodes know it."""
    pull: str = "IfNotPresent"
    """What the kubelets do about it."""

    def kubectl(self, *arguments: str, data: str | None = None) -> str:
        """Runs kubectl; raises `RuntimeError` with what it said."""
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=data, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """What `kubectl get` says, as data."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def apply(self, document: dict[str, Any]) -> None:
        self.kubectl("apply", "--filename=-", data=json.dumps(document))

    def claim(self, name: str, namespace: str) -> None:
        """A claim of 1 GiB for one node, of the cluster's default class."""
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}},
                    **({"storageClassName": self.storage_class} if self.storage_class else {}),
                },
            }
        )

    @property
    def storage_class(self) -> str:
        """Empty: the cluster's default."""
        return ""

    @property
    def version(self) -> tuple[int, int]:
        """Of the API server, for example (1, 20)."""
        told = json.loads(self.kubectl("get", "--raw", "/version"))
        return int(told["major"]), int(told["minor"].rstrip("+"))

    def wait(self, what: str, holds: Callable[[], bool], seconds: float) -> float:
        """Seconds until it holds; raises `RuntimeError` where the time is over."""
        started = time.monotonic()
        while not holds():
            self.check()
            if time.monotonic() - started > seconds:
                raise RuntimeError(f"not within {seconds:.0f} s: {what}\n{self.told()}")
            time.sleep(0.2)
        return time.monotonic() - started

    def check(self) -> None:
        """Raises `RuntimeError` where the cluster cannot work any more."""

    def told(self) -> str:
        """What helps to understand why something did not come."""
        return self.kubectl("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp")[-3000:]
