"""One cluster for all tests, with the CPU image on its node."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    work = Path(os.environ["NIMBLE_KUBERNETES_WORK"])
    state = work / "state"
    state.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "state", state], check=True)  # gone with the mount namespace
    cluster = Cluster(work / "bin", work / "data", state)
    try:
        cluster.start()
        for name in ("pause.tar", "image.tar"):
            cluster.load(work / name)
        yield cluster
    finally:
        cluster.stop()
