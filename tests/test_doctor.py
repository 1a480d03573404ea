"""The doctor finds what is wrong, and says what to do."""

import json
import os
import resource
import shutil
import socket
import subprocess
import time
from collections import namedtuple
from datetime import timedelta
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.hardware import Hardware, detect_hardware
from build_engine.profiles import PROFILES
from nimble_coder.commands import doctor
from nimble_coder.commands.doctor import Finding, examine
from nimble_coder.engine.cores import Cores
from nimble_coder.gateway.access.certificate import valid_until
from nimble_coder.settings.loading import load
from tests.standin.certificate import make_certificate
from tests.standin.machine import A100, B200, H100, T4, Machine

SEVEN = "qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"
Usage = namedtuple("Usage", "total used free")


def findings(**environment: object) -> dict[str, Finding]:
    asked = {"NIMBLE_HTTP_PORT": "18", "NIMBLE_GRPC_PORT": "19", "NIMBLE_METRICS_PORT": "20"}
    loaded = load({}, {**asked, **{name: str(value) for name, value in environment.items()}})
    return {finding.check: finding for finding in examine(loaded)}


def wrong(found: dict[str, Finding]) -> set[str]:
    assert all(finding.remedy for finding in found.values() if finding.verdict != "ok"), found
    return {name for name, finding in found.items() if finding.is_wrong}


def test_a_machine_without_a_gpu_is_well_for_the_portable_engine(artifact: Artifact, machine: Machine) -> None:
    found = findings(NIMBLE_ARTIFACT=artifact.directory)
    assert wrong(found) == set()
    assert "13 files as built" in found["engine"].seen


def test_the_cores_of_the_engines_step_are_told(artifact: Artifact, machine: Machine) -> None:
    usable = Cores.here().usable
    cores = findings(NIMBLE_ARTIFACT=artifact.directory)["cores"]
    assert cores.verdict == "ok"
    assert cores.seen == f"{Cores.here()}; on a CPU the engine's step has 1 of them"
    assert findings(NIMBLE_ARTIFACT=artifact.directory, NIMBLE_ENGINE_THREADS=usable)["cores"].verdict == "ok"
    more = findings(NIMBLE_ARTIFACT=artifact.directory, NIMBLE_ENGINE_THREADS=usable + 1)["cores"]
    assert (more.verdict, more.remedy) == ("warning", f"leave NIMBLE_ENGINE_THREADS out, or set at most {usable}")
    far = findings(NIMBLE_ARTIFACT=artifact.directory, NIMBLE_ENGINE_THREADS=100_000)["cores"]
    assert far.seen.endswith(f"the engine's step is to have {Cores.here().affinity} threads instead of 100000")


def test_what_a_compiled_engine_needs_is_asked_of_the_machine(
    h100: Machine, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(PROFILES[SEVEN], tiny_checkpoint, Cache(h100.cache), lambda _: None)
    found = findings(NIMBLE_ARTIFACT=made.directory)
    assert found["gpu"].seen.startswith("GPU 0: NVIDIA H100")
    assert found["stack"].verdict == ("ok" if resource.getrlimit(resource.RLIMIT_STACK)[0] < 0 else "warning")
    h100.set(NVIDIA_TRITON_SERVER_VERSION="25.06")
    assert "#5451" in findings(NIMBLE_ARTIFACT=made.directory)["container"].seen


def test_an_engine_that_cannot_run_here_is_wrong(h100: Machine, tiny_checkpoint: Path) -> None:
    made = build(PROFILES[SEVEN], tiny_checkpoint, Cache(h100.cache), lambda _: None)
    h100.gpus(A100)
    assert wrong(findings(NIMBLE_ARTIFACT=made.directory)) == {"engine"}


@pytest.mark.parametrize(
    ("driver", "verdict"),
    [("575.57.08", "ok"), ("535.86.10", "warning"), ("470.82.01", "warning"), ("460.106.00", "wrong")],
)
def test_the_driver_must_know_the_containers_cuda(driver: str, verdict: str) -> None:
    assert doctor.check_driver(Hardware((), driver), needed=True).verdict == verdict


def test_a_driver_that_is_not_told_is_doubtful(machine: Machine) -> None:
    machine.gpus(H100)
    machine.set(STANDIN_DRIVER="[N/A]")
    hardware = detect_hardware()
    for found in (doctor.check_driver(hardware, needed=True), doctor.check_cuda_driver(hardware)):
        assert (found.verdict, found.seen) == ("warning", "nvidia-smi does not tell its version")


def test_a_gpu_without_the_kernels_is_not_enough(machine: Machine) -> None:
    assert doctor.check_gpu(detect_hardware(), needed=True).is_wrong
    machine.gpus(T4)
    assert doctor.check_gpu(detect_hardware(), needed=True).is_wrong
    assert not doctor.check_gpu(detect_hardware(), needed=False).is_wrong


def test_what_the_portable_engine_needs_on_a_gpu_is_asked_where_it_is_to_run_on_one(
    artifact: Artifact, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"NIMBLE_ARTIFACT": artifact.directory, "NIMBLE_ENGINE_DEVICE": "cuda"}
    without = findings(**asked)
    assert wrong(without) == {"gpu", "driver", "kernels", "engine"}
    assert "--gpus all" in without["engine"].remedy
    machine.gpus(T4, B200)
    machine.cuda("13.0.96")
    machine.set(STANDIN_DRIVER="575.57.08")
    old = findings(**asked)
    assert old["gpu"].seen.startswith("GPU 1: NVIDIA B200")
    assert old["driver"].remedy == "install 580 or later on this machine"
    machine.set(STANDIN_DRIVER="580.65.06")
    found = findings(**asked)
    assert wrong(found) == {"kernels"}  # this machine has neither PyTorch's CUDA build nor the driver's library
    assert "libcuda.so.1" in found["kernels"].seen
    monkeypatch.setattr(doctor, "lacking", lambda: iter(()))
    machine.set(TRITON_CACHE_DIR=machine.home / "kernels")
    assert findings(**asked)["kernels"].seen.endswith(str(machine.home / "kernels"))
    assert findings(NIMBLE_ARTIFACT=artifact.directory)["kernels"].verdict == "ok"


def test_an_engine_whose_content_changed_is_wrong_though_its_sizes_are_right(
    artifact: Artifact, machine: Machine, tmp_path: Path
) -> None:
    place = tmp_path / "artefact"
    shutil.copytree(artifact.directory, place)
    weights = place / "engine" / "config.json"
    weights.write_text(weights.read_text().replace("1", "2", 1))
    found = findings(NIMBLE_ARTIFACT=place)
    assert wrong(found) == {"engine"}
    assert "changed after it was built" in found["engine"].seen


def test_too_little_shared_memory_depends_on_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(128 << 20, 0, 128 << 20))
    assert not doctor.check_shared_memory(1).is_wrong
    assert "--shm-size 2048m" in doctor.check_shared_memory(2).remedy


def test_limits_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert [doctor.check_open_files().verdict, doctor.check_stack(True).verdict] == ["warning", "warning"]
    assert [doctor.check_locked_memory(2).verdict, doctor.check_locked_memory(1).verdict] == ["warning", "ok"]


@pytest.mark.parametrize(("days", "verdict"), [(90, "ok"), (10, "warning"), (-1, "wrong")])
def test_a_certificate_that_ends_soon_is_told(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, verdict: str
) -> None:
    certificate, key = make_certificate(tmp_path / "tls.crt", "x", "-days", "10"), tmp_path / "tls.key"
    end = valid_until(certificate) + timedelta(days - 10)
    monkeypatch.setattr(doctor, "valid_until", lambda _: end)
    found = findings(NIMBLE_ARTIFACT=artifact.directory, NIMBLE_TLS_CERTIFICATE=certificate, NIMBLE_TLS_KEY=key)["tls"]
    assert (found.verdict, found.seen) == (verdict, f"on, valid until {end.isoformat()}")


def test_ports_tls_cache_and_clock(artifact: Artifact, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = findings(
            NIMBLE_HTTP_PORT=taken.getsockname()[1],
            NIMBLE_TLS_CERTIFICATE="/c",
            NIMBLE_TLS_KEY="/k",
            NIM_CACHE_PATH=machine.home / "cache",
            NIM_NOTHING="1",
        )
    assert wrong(found) == {"ports", "tls"}
    assert found["settings"].verdict == "warning"
    assert "would be built" in found["engine"].seen
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2 << 30, 2 << 30, 1000))
    assert "cache" in wrong(findings(NIM_CACHE_PATH=machine.home / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    found = findings(NIM_CACHE_PATH=machine.home / "cache")
    assert {"cache", "temporary files"} <= wrong(found)
    assert "/nowhere (TMPDIR)" in found["temporary files"].seen
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert doctor.check_clock(None).is_wrong


@pytest.mark.parametrize(("place", "seen"), [("~nobody-of-that-name/x", "in the home of nobody"), ("FILE", "no dir")])
def test_a_cache_that_can_be_nowhere_is_wrong(machine: Machine, place: str, seen: str) -> None:
    file = machine.home / "file"
    file.touch()
    found = findings(NIM_CACHE_PATH=place.replace("FILE", str(file / "cache")))
    assert seen in found["cache"].seen
    assert "cache" in wrong(found)


def test_a_temporary_directory_that_libraries_cannot_be_loaded_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount: list[str | Path] = ["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", tmp_path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = doctor.check_temporary(needs_gpu=False)
    subprocess.run(["umount", tmp_path], check=True)
    assert found.is_wrong
    assert "exec" in found.remedy


def test_the_command_ends_with_1_where_something_is_wrong(artifact: Artifact, machine: Machine) -> None:
    machine.set(NIMBLE_ARTIFACT=artifact.directory, NIMBLE_HTTP_PORT=18, NIMBLE_GRPC_PORT=19, NIMBLE_METRICS_PORT=20)
    well = machine.call("doctor", "--format", "json")
    assert well.returncode == 0
    assert {finding["verdict"] for finding in json.loads(well.stdout)} <= {"ok", "warning"}
    machine.set(NIMBLE_ARTIFACT="/nowhere")
    ill = machine.call("doctor")
    assert ill.returncode == 1
    assert "wrong    engine           /nowhere does not exist" in ill.stdout
    assert "-> nimble-coder cache prune, then build-engine" in ill.stdout
