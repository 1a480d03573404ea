"""Replicas of the service, each on an address of its own, and what a cluster does to them."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.routing.names import Names

PRE_STOP_SECONDS = 5.0
"""Of the chart: until nobody sends requests here any more."""


@dataclass
class Replica:
    """`nimble-coder serve` on the usual ports."""

    address: str
    artifact: Path
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Until it is ready."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("NIM_", "NIMBLE_"))}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nimble_coder.cli", "serve", str(self.artifact)],
                env={**own, "NIMBLE_HOST": self.address, "NIMBLE_DRAIN_SECONDS": "120"},
                stdout=log,
                stderr=log,
            )
        while not self.is_ready:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.1)

    @property
    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://{self.address}:8002/v1/health/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> int:
        """Told to end, as the kubelet does it; its exit code."""
        assert self.process
        self.process.terminate()
        return self.process.wait(180)

    def metric(self, pattern: str) -> float:
        """The sum of the lines of its metrics that begin so."""
        page = httpx.get(f"http://{self.address}:8002/metrics", timeout=10).text
        return sum(float(value) for value in re.findall(rf"^{pattern}\S* (\S+)$", page, re.MULTILINE))

    def kill_engine(self) -> None:
        """As the kernel does where memory runs out."""
        assert self.process
        listed = subprocess.run(["ps", "-eww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
        for line in listed.splitlines():
            pid = int(line.split()[0])
            if "/tensorrt_llm/1/" in line and "stub" in line and descends(pid, self.process.pid):
                os.kill(pid, signal.SIGKILL)
                return
        raise RuntimeError("the engine's process is not there")


def descends(pid: int, ancestor: int) -> bool:
    """Whether one process has been started by the other, or by one of its children."""
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


@dataclass
class Fleet:
    """All replicas, and the name that leads to those that are ready."""

    names: Names
    replicas: list[Replica] = field(default_factory=list)

    def start(self, replica: Replica) -> None:
        replica.start()
        self.names.addresses = sorted({*self.names.addresses, replica.address})

    def replace(self, replica: Replica) -> None:
        """As a rolling update does it: out of the Service, told to end, and a new one once that has ended."""
        self.names.addresses = [each for each in self.names.addresses if each != replica.address]
        time.sleep(PRE_STOP_SECONDS)
        assert replica.stop() == 0, replica.log.read_text()[-3000:]
        self.start(replica)

    def total(self, pattern: str) -> float:
        return sum(replica.metric(pattern) for replica in self.replicas)
