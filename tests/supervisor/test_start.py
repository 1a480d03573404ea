"""A first start, and every reason not to start, each with its own exit code."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.exit_codes import ExitCode
from build_engine.profiles import PROFILES
from nimble_coder.processes.children import command_of, descendants
from tests.standin.machine import A100, Machine
from tests.supervisor.conftest import Service, Start, serve

SEVEN = "qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"
BODY = {"prompt": "import os\nimport ", "max_tokens": 2}


def refused(*options: str, **settings: object) -> tuple[int, str]:
    """Exit code and last line of a start that ends by itself."""
    done = serve(*options, **settings)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def ended(service: Service, seconds: float = 30) -> tuple[int, str]:
    """The same of a process of its own."""
    code = service.process.wait(seconds)
    assert not any("Traceback" in line for line in service.output), service.output
    return code, service.last_line


def not_ready(service: Service) -> str:
    """Why the HTTP port says that the service is not ready; empty where it does not say."""
    try:
        answer = httpx.get(f"{service.addresses.http}/v1/health/ready", timeout=5)
    except httpx.TransportError:
        return ""
    return str(answer.json()["message"]) if answer.status_code == 503 else ""


def test_a_first_start_builds_the_engine_and_says_so_until_it_is_ready(start: Start, tmp_path: Path) -> None:
    service = start(NIMBLE_CACHE_PATH=tmp_path / "cache", NIM_MODEL_PROFILE="demo")
    service.wait_until(lambda: "building the engine: verifying" in not_ready(service))
    assert [service.status(path) for path in ("/v1/health/live", "/v1/health/ready", "/metrics")] == [200, 503, 503]
    assert httpx.get(f"{service.addresses.http}/v1/health/live").json()["message"] == "Service is live."
    early = httpx.post(f"{service.addresses.http}/v1/completions", json=BODY)
    assert (early.status_code, early.headers["retry-after"], early.json()["error"]["code"]) == (503, "10", "starting")
    assert "building the engine" in early.json()["error"]["message"]
    service.wait_ready()
    assert httpx.post(f"{service.addresses.http}/v1/completions", json=BODY, timeout=30).status_code == 200
    assert any(line.startswith("[build]   building the torch engine") for line in service.output)
    assert len(list((tmp_path / "cache" / "artifacts").glob("demo-*"))) == 1


def test_sigterm_ends_a_build_that_publishes_nothing_and_knows_no_keys(start: Start, tmp_path: Path) -> None:
    secrets = {"NIMBLE_API_KEYS": "very-secret", "NIMBLE_ADMIN_KEY": "boss-secret", "HF_TOKEN": "hub-secret"}
    service = start(NIMBLE_CACHE_PATH=tmp_path / "cache", NIM_MODEL_PROFILE="demo", **secrets)
    service.wait_until(lambda: "building" in not_ready(service))
    # Known by its command, which it has no sooner than its own environment: between the two it is a copy of `serve`.
    service.wait_until(lambda: bool(builders(service)))
    environment = Path(f"/proc/{builders(service)[0]}/environ").read_text()
    assert [secret for secret in secrets.values() if secret in environment] == ["hub-secret"]
    service.process.terminate()
    assert ended(service) == (ExitCode.INTERRUPTED, "[supervisor] interrupted")
    assert list((tmp_path / "cache" / "artifacts").glob("demo-*")) == []


def builders(service: Service) -> list[int]:
    return [pid for pid in descendants(service.process.pid) if "build-engine" in command_of(pid)]


def test_no_engine_and_no_leave_to_build_one(tmp_path: Path) -> None:
    code, last = refused(NIMBLE_CACHE_PATH=tmp_path, NIMBLE_BUILD_ON_START="false")
    assert code == ExitCode.NO_ENGINE
    assert "there is no engine of demo" in last
    assert "nimble-coder build-engine -p demo" in last


@pytest.mark.parametrize(
    ("settings", "code", "reason"),
    [
        ({"NIM_MAX_MODEL_LEN": "long"}, ExitCode.ASKED, "NIM_MAX_MODEL_LEN is 'long'"),
        ({"NIM_MODEL_PROFILE": "nothing"}, ExitCode.ASKED, "there is no profile 'nothing'"),
        ({"NIMBLE_ARTIFACT": "/nowhere"}, ExitCode.ARTIFACT, "/nowhere does not exist"),
        ({"NIMBLE_TLS_CERTIFICATE": "/c", "NIMBLE_TLS_KEY": "/k"}, ExitCode.TLS, "/c cannot be read: No such file"),
        ({"NIMBLE_TLS_CERTIFICATE": __file__, "NIMBLE_TLS_KEY": __file__}, ExitCode.TLS, "no certificate and its key"),
        ({"NIM_MODEL_PROFILE": SEVEN}, ExitCode.MACHINE, "TensorRT-LLM is not installed here"),
        ({"NIMBLE_DRAFTS_PATH": __file__}, ExitCode.ASKED, "name a directory that can be written"),
        ({"NIMBLE_DRAFTS_PATH": "/proc/drafts"}, ExitCode.ASKED, "no file can be made in /proc"),
    ],
)
def test_what_cannot_be_started_says_why(
    machine: Machine, settings: dict[str, str], code: ExitCode, reason: str
) -> None:
    found, last = refused(**{"NIMBLE_CACHE_PATH": machine.cache, **settings})
    assert (found, reason in last) == (code, True), last


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["API_KEYS_FILE"], ExitCode.ASKED),
        (["POLICY"], ExitCode.ASKED),
        (["TLS_CERTIFICATE", "TLS_KEY"], ExitCode.TLS),
    ],
    ids=["keys", "policy", "TLS"],
)
def test_a_pipe_in_the_place_of_a_file_is_refused(
    artifact: Artifact, tmp_path: Path, names: list[str], code: ExitCode
) -> None:
    """As a shell's `<(...)`, whose contents are gone when they have been read once; nobody writes into this one."""
    os.mkfifo(tmp_path / "pipe")
    settings = {f"NIMBLE_{name}": tmp_path / "pipe" for name in names}
    found, last = refused(NIMBLE_ARTIFACT=artifact.directory, **settings)
    assert (found, "it is a pipe" in last) == (code, True), last


def test_a_port_that_is_taken_is_named(artifact: Artifact) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as another gateway would have it
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, last = refused("--http-port", str(port), NIMBLE_ARTIFACT=artifact.directory)
    assert code == ExitCode.PORT
    assert f"port {port} on 127.0.0.1 cannot be used: Address already in use" in last


def copied(artifact: Artifact, place: Path) -> Path:
    shutil.copytree(artifact.directory, place)
    return place


@pytest.mark.parametrize("damage", ["manifest", "file"])
def test_a_damaged_artefact_is_not_served(artifact: Artifact, tmp_path: Path, damage: str) -> None:
    place = copied(artifact, tmp_path / "artefact")
    path = place / ("manifest.json" if damage == "manifest" else "engine/config.json")
    path.write_text("{")
    code, last = refused(str(place))
    assert code == ExitCode.ARTIFACT
    assert str(path) in last


def test_an_engine_for_another_gpu_is_not_served(h100: Machine, tiny_checkpoint: Path) -> None:
    made = build(PROFILES[SEVEN], tiny_checkpoint, Cache(h100.cache), lambda _: None)
    h100.gpus(A100)
    code, last = refused(NIMBLE_ARTIFACT=made.directory)
    assert code == ExitCode.MACHINE
    assert "needs H100, this machine has NVIDIA A100-SXM4-80GB" in last


def test_a_build_that_fails_ends_with_its_own_code(h100: Machine, tiny_checkpoint: Path) -> None:
    assert h100.call("download-to-cache", "-p", SEVEN, "--from", tiny_checkpoint).returncode == 0
    h100.set(STANDIN_BUILD="exit", HF_HUB_OFFLINE="1")
    code, last = refused(NIM_MODEL_PROFILE=SEVEN, NIM_CACHE_PATH=h100.cache)
    assert code == ExitCode.BUILD
    assert "the build ended with code 5" in last


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the cache should be cannot be written by anybody, root included."""
    (tmp_path / "file").touch()
    code, last = refused(NIM_CACHE_PATH=tmp_path / "file")
    assert code == ExitCode.READ_ONLY
    assert "cannot be written" in last


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without room, where this test may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount: list[str | Path] = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    (place / "filler").write_bytes(bytes(950_000))
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_full(full_disk: Path) -> None:
    code, last = refused(NIM_CACHE_PATH=full_disk)
    assert code == ExitCode.DISK_FULL
    assert re.search(r"needs \d+\.\d MB, .* has \d+\.\d kB free: make room", last)


def test_a_temporary_directory_that_is_not_there_is_named_before_anything_is_built(
    start: Start, tmp_path: Path
) -> None:
    service = start(NIMBLE_CACHE_PATH=tmp_path / "cache", NIM_MODEL_PROFILE="demo", TMPDIR=tmp_path / "absent")
    code, last = ended(service)
    assert code == ExitCode.MACHINE
    assert f"the temporary directory {tmp_path}/absent (TMPDIR) cannot be used: No such file or directory" in last
    assert not any("building" in line for line in service.output)


def test_a_limit_of_open_files_with_which_triton_would_hang(start: Start, artifact: Artifact) -> None:
    few = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
    code, last = ended(start(prefix=few, NIMBLE_ARTIFACT=artifact.directory))
    assert code == ExitCode.MACHINE
    assert "the hard limit of open files is 64" in last


def test_loading_that_takes_too_long(start: Start, artifact: Artifact) -> None:
    code, last = ended(start(NIMBLE_ARTIFACT=artifact.directory, NIMBLE_STARTUP_SECONDS="1e-9"))
    assert code == ExitCode.NOT_READY
    assert "not ready after 0 s" in last


@contextmanager
def in_group(controller: str, limit: str, name: str) -> Iterator[tuple[str, ...]]:
    """What a command has to begin with to run in a control group with a limit; nothing may be left in it."""
    group, (file, value) = Path("/sys/fs/cgroup") / controller / f"nimble-{name}", limit.split("=")
    try:
        group.mkdir()
        (group / file).write_text(value)
    except OSError:
        pytest.skip("no control group can be made here")
    try:
        yield "sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"
    finally:
        deadline = time.monotonic() + 10
        while (left := (group / "cgroup.procs").read_text().split()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:  # or no later run could make the group
            os.kill(int(pid), signal.SIGKILL)
        while (group / "cgroup.procs").read_text():
            time.sleep(0.1)
        group.rmdir()
    assert left == []


def test_memory_that_runs_out(start: Start, artifact: Artifact, tmp_path: Path) -> None:
    """A control group with less than Triton and the gateway need; the kernel kills the largest of its processes."""
    with in_group("memory", f"memory.limit_in_bytes={140 << 20}", tmp_path.name) as enter:
        code, last = ended(start(prefix=enter, NIMBLE_ARTIFACT=artifact.directory))
    assert code == ExitCode.OUT_OF_MEMORY
    assert "memory ran out: raise the container's limit" in last


@pytest.mark.parametrize("limit", [5, 40, 120])
def test_threads_that_the_kernel_refuses(start: Start, artifact: Artifact, tmp_path: Path, limit: int) -> None:
    """Not even enough for the supervisor; for Triton; for its models, which it then waits for without an end."""
    with in_group("pids", f"pids.max={limit}", tmp_path.name) as enter:
        service = start(prefix=enter, NIMBLE_ARTIFACT=artifact.directory)
        assert service.process.wait(60) == ExitCode.MACHINE
    assert "the kernel has refused a process or a thread" in service.last_line
    assert f"there may be {limit} processes and threads at once (the control group's pids.max)" in service.last_line


def test_a_dry_run_tells_every_value_its_origin_and_the_processes(artifact: Artifact) -> None:
    done = serve(
        "--dry-run",
        "--workers",
        "2",
        NIMBLE_ARTIFACT=artifact.directory,
        NIMBLE_API_KEYS="very-secret",
        NIM_SERVED_MODEL_NAME="coder",
        NIM_PEFT_SOURCE="/x",
    )
    assert done.returncode == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert "(command line --workers)" in lines["workers"]
    assert "(environment NIM_SERVED_MODEL_NAME)" in lines["served_model_names"]
    assert "(profile demo)" in lines["max_model_len"]
    assert "***" in lines["api_keys"]
    assert "very-secret" not in done.stdout
    assert "bin/tritonserver --model-repository=" in lines["[triton]"]
    assert done.stdout.count("[gateway]") == 2
    assert "warning: NIM_PEFT_SOURCE is known to NIM" in done.stdout
