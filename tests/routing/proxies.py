"""HAProxy and Envoy with the files of deploy/."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from tests.helm.chart import ROOT
from tests.routing.names import NAME, PORT

HOST = "127.0.0.10"
HTTP, GRPC = f"http://{HOST}:8000", f"{HOST}:8001"
SERVICE = "coder-nimble-coder-pods.default.svc.cluster.local"


def haproxy_command(work: Path) -> list[str]:
    """As the file is."""
    return [shutil.which("haproxy") or "/usr/sbin/haproxy", "-f", str(ROOT / "deploy/haproxy/haproxy.cfg")]


def envoy_command(work: Path) -> list[str]:
    """With the name, the name server and the address of the test in place of the cluster's, which Envoy reads from
    nowhere else."""
    text = (ROOT / "deploy/envoy/envoy.yaml").read_text().replace(SERVICE, NAME).replace("0.0.0.0", HOST)  # noqa: S104 - it is taken out
    config = yaml.safe_load(text)
    for cluster in config["static_resources"]["clusters"]:
        cluster["typed_dns_resolver_config"] = {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [{"socket_address": {"address": HOST, "port_value": PORT}}],
            },
        }
    file = work / "envoy.json"
    file.write_text(json.dumps(config))
    return [str(Path(sys.executable).with_name("envoy")), "-c", str(file), "--concurrency", "2", "-l", "warning"]


COMMANDS = {"haproxy": haproxy_command, "envoy": envoy_command}


@contextmanager
def proxy(kind: str, work: Path) -> Iterator[None]:
    """The running proxy."""
    own = {"NIMBLE_LISTEN": HOST, "NIMBLE_PODS": NAME, "NIMBLE_DNS": f"{HOST}:{PORT}"}
    with (work / f"{kind}.log").open("wb") as log:
        command = COMMANDS[kind](work)
        with subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log) as process:
            try:
                while not answers():
                    assert process.poll() is None, (work / f"{kind}.log").read_text()
                    time.sleep(0.05)
                yield
            finally:
                process.kill()


def answers() -> bool:
    try:
        return httpx.get(f"{HTTP}/v1/health/ready", timeout=5).status_code in (200, 503)
    except httpx.HTTPError:
        return False
