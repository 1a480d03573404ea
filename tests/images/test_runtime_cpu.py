"""The CPU image: what it is, that it serves under every restriction, and how it ends."""

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from openai import InternalServerError

from build_engine.exit_codes import ExitCode
from tests.images.layers import found_in_layers
from tests.images.podman import HARDENED, SUBNET, Container, Podman, say
from tests.images.service import complete_over_grpc, complete_over_http, get, stream, wait_ready
from tests.test_sbom import check

MEGABYTE = 10**6
LARGEST = 1500 * MEGABYTE
ARTIFACT = "/opt/nimble-coder/artifact"
ANYONE = str(random.Random(os.getpid()).randrange(10_000, 60_000))


def test_it_says_how_it_is_run(podman: Podman, cpu_image: str) -> None:
    config = podman.config(cpu_image)["Config"]
    assert (config["User"], config["Entrypoint"], config["StopSignal"]) == ("1000:0", ["nimble-coder"], "SIGTERM")
    assert sorted(config["ExposedPorts"]) == ["8000/tcp", "8001/tcp", "8002/tcp"]
    assert podman.config(cpu_image)["Healthcheck"]["Test"] == ["CMD", "nimble-coder", "health"]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_it_is_at_most_one_and_a_half_gigabytes(podman: Podman, cpu_image: str) -> None:
    size = podman.config(cpu_image)["Size"]
    say(f"runtime-cpu: {size / MEGABYTE:.0f} MB")
    assert size <= LARGEST


def test_it_carries_a_list_of_what_is_in_it(podman: Podman, cpu_image: str) -> None:
    """With `cat`, as docs/container.md reads it; what it says is held to SPDX 2.3."""
    document = json.loads(podman.run("run", "--rm", "--entrypoint=cat", cpu_image, "/opt/nimble-coder/sbom.spdx.json"))
    check(document)
    listed = {each["name"].lower() for each in document["packages"]}
    assert {"torch", "nvidia-pytriton", "libc6", "python", "nimble-coder"} <= listed
    say(f"runtime-cpu: {len(listed)} packages with their licences")


def test_no_secret_is_in_any_layer_or_in_the_history(podman: Podman, cpu_image: str, token: str) -> None:
    assert found_in_layers(podman, cpu_image, "class CompletionClient")  # the search finds what is there
    assert found_in_layers(podman, cpu_image, token) == []
    assert token not in podman.run("history", "--no-trunc", cpu_image)


def test_a_start_builds_nothing_and_loads_no_pytorch(podman: Podman, cpu_image: str) -> None:
    """Which is what a start takes its time for; the seconds are told, and depend on who else uses the machine."""
    with podman.start(cpu_image) as container:
        say(f"runtime-cpu: ready after {wait_ready(container):.1f} s")
        gateway, engine = (container.find(text) for text in ("nimble_coder.gateway.server", "tensorrt_llm/1/model.py"))
        loaded = {pid: "libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in (container.pid, gateway, engine)}
        assert loaded == dict.fromkeys((container.pid, gateway, engine), False)
        assert "building" not in container.log


@pytest.fixture(scope="module", params=["1000:0", f"{ANYONE}:0", f"{ANYONE}:{ANYONE}"], ids=["1000", "group 0", "any"])
def served(request: pytest.FixtureRequest, podman: Podman, cpu_image: str) -> Iterator[Container]:
    """Without capabilities, without privileges, on a read-only root, on a network that leads nowhere."""
    with podman.start(cpu_image, user=request.param) as container:
        wait_ready(container)
        yield container


def test_it_completes_over_grpc_and_http(served: Container) -> None:
    assert len(complete_over_grpc(served, "def add(a, b):", 16)) > 10
    assert complete_over_http(served, "def add(a, b):", 16) == complete_over_grpc(served, "def add(a, b):", 16)


def test_it_counts_what_it_does(served: Container) -> None:
    complete_over_http(served, "def add(a, b):", 8)
    status, page = get(f"http://{served.address}:8002/metrics")
    assert status == 200
    assert "nimble_" in page
    assert "nv_inference_count" in page


def test_its_own_client_works_inside(served: Container) -> None:
    done = served.execute("nimble-coder", "complete", "def add(a, b):", "--max-tokens", "8")
    assert (done.returncode, bool(done.stdout.strip())) == (0, True), done.stderr


def test_its_health_check_answers(served: Container) -> None:
    for command in (["nimble-coder", "health"], ["nimble-coder", "health", "--ready"]):
        done = served.execute(*command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_its_processes_have_no_rights(served: Container) -> None:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{served.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert served.execute("touch", "/opt/nimble-coder/new").returncode != 0


def test_sigterm_lets_a_stream_finish_and_refuses_new_work(podman: Podman, cpu_image: str) -> None:
    with podman.start(cpu_image) as container:
        wait_ready(container)
        events = stream(container, "def add(a, b):", 6000)
        received = [next(events)]
        os.kill(container.pid, signal.SIGTERM)
        rest = threading.Thread(target=lambda: received.extend(events))
        rest.start()
        url = f"http://{container.address}:8000/v1/health/ready"
        deadline = time.monotonic() + 60
        while get(url)[0] == 200 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert get(url)[0] == 503
        with pytest.raises(InternalServerError) as refused:
            complete_over_http(container, "def add(a, b):", 8)
        assert refused.value.status_code == 503
        rest.join(60)
        assert received[-1] == "[DONE]"
        assert json.loads(received[-2])["choices"][0]["finish_reason"] == "length"
        assert container.wait(60) == 0


class Collector(BaseHTTPRequestHandler):
    """Of OpenTelemetry, as far as a test looks at it."""

    paths: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.paths.append(self.path)
        self.send_response(200)
        self.end_headers()


def test_spans_reach_a_collector(podman: Podman, cpu_image: str) -> None:
    """Which is on the host's address of the network: it has one as soon as a container is on it."""
    host = SUBNET.replace(".0/24", ".1")
    port = random.Random(os.getpid()).randrange(20_000, 30_000)
    told = (f"OTEL_EXPORTER_OTLP_ENDPOINT=http://{host}:{port}", "OTEL_BSP_SCHEDULE_DELAY=100")
    options = [*HARDENED, *(f"--env={each}" for each in told)]
    with podman.start(cpu_image, options=options) as container:
        wait_ready(container)
        with HTTPServer((host, port), Collector) as collector:
            collector.timeout = 30
            assert complete_over_http(container, "def add(a, b):", 8)
            collector.handle_request()
    assert Collector.paths == ["/v1/traces"]


@pytest.mark.parametrize(
    ("process", "code"),
    [("bin/tritonserver", ExitCode.TRITON), ("nimble_coder.gateway", ExitCode.GATEWAY)],
    ids=["tritonserver", "gateway"],
)
def test_a_killed_process_ends_the_container_with_the_reason_last(
    podman: Podman, cpu_image: str, process: str, code: ExitCode
) -> None:
    with podman.start(cpu_image) as container:
        wait_ready(container)
        os.kill(container.find(process), signal.SIGKILL)
        assert container.wait(60) == code
        assert "killed" in container.last_line or "signal 9" in container.last_line or "-9" in container.last_line
        say(f"killed: {container.last_line}")


def test_too_little_memory_is_said(podman: Podman, cpu_image: str) -> None:
    with podman.start(cpu_image, options=[*HARDENED, "--memory=180m"]) as container:
        assert container.wait(60) == ExitCode.OUT_OF_MEMORY
        assert "memory" in container.last_line
        say(f"out of memory: {container.last_line}")


def test_a_taken_port_is_named(podman: Podman, cpu_image: str) -> None:
    with podman.start(cpu_image) as first:
        wait_ready(first)
        second = podman.once(cpu_image, network=f"container:{first.name}")
    assert second.returncode == ExitCode.PORT
    assert "port 8000" in second.stderr.rstrip().rpartition("\n")[2]


def test_a_missing_engine_is_named(podman: Podman, cpu_image: str) -> None:
    done = podman.once(cpu_image, "serve", "/models/none")
    assert done.returncode == ExitCode.ARTIFACT
    assert "/models/none" in done.stderr.rstrip().rpartition("\n")[2]


def test_a_corrupt_manifest_is_named(podman: Podman, cpu_image: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    done = podman.once(cpu_image, options=[*HARDENED, f"--volume={tmp_path}/manifest.json:{ARTIFACT}/manifest.json:ro"])
    assert done.returncode not in (0, 1)
    assert "manifest" in done.stderr.rstrip().rpartition("\n")[2]


@pytest.mark.parametrize(
    ("cache", "code"),
    [([], ExitCode.READ_ONLY), (["--tmpfs=/opt/nim/.cache:size=1m,mode=1777"], ExitCode.DISK_FULL)],
    ids=["read-only", "full"],
)
def test_a_cache_without_room_is_named(podman: Podman, cpu_image: str, cache: list[str], code: ExitCode) -> None:
    done = podman.once(cpu_image, "build-engine", "-p", "demo", options=[*HARDENED, *cache])
    assert done.returncode == code
    assert "/opt/nim/.cache" in done.stderr


@pytest.mark.parametrize("user", ["1000:0", f"{ANYONE}:0"])
def test_an_engine_is_built_into_a_mounted_cache(podman: Podman, cpu_image: str, user: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    options = [*HARDENED, f"--volume={tmp_path}:/opt/nim/.cache"]
    done = podman.once(cpu_image, "build-engine", "-p", "demo", "--skip-verify", options=options, user=user)
    assert done.returncode == 0, done.stderr
    with podman.start(cpu_image, "serve", done.stdout.strip(), options=options, user=user) as container:
        wait_ready(container)


def test_a_changed_line_is_in_the_image_without_installing_the_dependencies_again(
    podman: Podman, context: Path, cpu_image: str, tmp_path: Path
) -> None:
    changed, image, line = tmp_path / "context", "localhost/nimble-coder:changed", f"# changed at {time.time()}"
    shutil.copytree(context, changed)
    with (changed / "nimble_coder" / "gateway" / "app.py").open("a") as file:
        file.write(f"{line}\n")
    before = set(podman.run("images", "--all", "--quiet").split())
    try:
        podman.build(changed, image, "--target=runtime-cpu")
        assert found_in_layers(podman, image, line)
        old, new = set(podman.layers(cpu_image)), set(podman.layers(image))
        assert any(list(layer.rglob("libtorch_cpu.so")) for layer in new & old)
        assert not any(list(layer.rglob("libtorch_cpu.so")) for layer in new - old)
    finally:
        made = set(podman.run("images", "--all", "--quiet").split()) - before
        podman.call("rmi", "--force", *made)
