"""The command that starts NVIDIA's Triton for compiled engines, one rank or several."""

import io
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from build_engine.build import BuildOptions, build
from build_engine.cache import Cache
from build_engine.engine_config import EngineConfig
from build_engine.profiles import PROFILES
from build_engine.store import create_store
from nimble_coder.processes import triton
from nimble_coder.processes.children import session_commands
from nimble_coder.processes.errors import OutOfMemoryError, TritonError
from nimble_coder.processes.log import ProcessLog
from nimble_coder.processes.triton import Addresses, TritonServer
from nimble_coder.processes.triton_container import ContainerTriton, hosts_of_ranks
from tests.standin.machine import Machine

ARGUMENTS = ["--model-repository=r", "--grpc-port=8001"]


def container(place: Path) -> Path:
    """A directory like the container's /opt/tritonserver."""
    (place / "opt" / "backends" / "tensorrtllm").mkdir(parents=True)
    return place / "opt"


def compiled(machine: Machine, checkpoint: Path, name: str) -> Artifact:
    return build(PROFILES[name], checkpoint, Cache(machine.cache), lambda _: None)


def test_a_compiled_engine_is_run_by_the_containers_triton(
    h100: Machine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    artifact = compiled(h100, tiny_checkpoint, "qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8")
    root = container(tmp_path)
    found = ContainerTriton.for_repository(artifact.repository, root)
    assert found == ContainerTriton(root, 1)
    assert found.launch(ARGUMENTS, "x-") == [
        str(root / "bin" / "tritonserver"),
        *ARGUMENTS,
        "--backend-config=python,shm-region-prefix-name=x-0-",
    ]
    assert found.backends(tmp_path) == root / "backends"


def test_every_further_rank_is_an_application_context_of_mpirun(
    h100: Machine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """As in scripts/launch_triton_server.py of tensorrtllm_backend v0.19.0."""
    artifact = compiled(h100, tiny_checkpoint, "qwen2.5-coder-32b-instruct-h100-bf16-tp2-w15n15g15")
    found = ContainerTriton.for_repository(artifact.repository, container(tmp_path))
    assert found is not None
    command = found.launch(ARGUMENTS, "x-")
    assert command[:6] == ["mpirun", "--allow-run-as-root", "--bind-to", "none", "-n", "1"]
    first, second = " ".join(command[4:]).split(" : ")
    assert first.startswith("-n 1 ")
    assert "--load-model" not in first
    assert second.endswith("shm-region-prefix-name=x-1- --model-control-mode=explicit --load-model=tensorrt_llm")


def test_every_rank_loads_its_part_of_a_companion_too(h100: Machine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A rank that lacks a model waits for it for ever (model_instance_state.cc of tensorrtllm_backend v0.19.0)."""
    profile = PROFILES["qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"].with_limits(tensor_parallel=2)
    options = BuildOptions(companion=True)
    artifact = build(profile, tiny_checkpoint, Cache(h100.cache), lambda _: None, options=options)
    found = ContainerTriton.for_repository(artifact.repository, container(tmp_path))
    assert found is not None
    assert found.launch(ARGUMENTS, "x-")[-2:] == ["--load-model=tensorrt_llm", "--load-model=tensorrt_llm_plain"]


def spread_over_two(machine: Machine, checkpoint: Path, place: Path) -> Path:
    """The repository of an engine of two ranks for two machines with one GPU each."""
    artifact = compiled(machine, checkpoint, "qwen2.5-coder-32b-instruct-h100-bf16-tp2-w15n15g15")
    return create_store(artifact, place / "store", gpus_per_node=1)


def test_ranks_on_other_machines_are_in_the_pods_of_the_group(
    h100: Machine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    group = {"LWS_LEADER_ADDRESS": "coder-group-0.coder-group.tools", "LWS_GROUP_SIZE": "2"}
    repository = spread_over_two(h100, tiny_checkpoint, tmp_path)
    found = ContainerTriton.for_repository(repository, container(tmp_path), group)
    assert found is not None
    command = found.launch(ARGUMENTS, "x-")
    assert [command[place + 1] for place, part in enumerate(command) if part == "--host"] == [
        "coder-group-0.coder-group.tools:1",
        "coder-group-0-1.coder-group.tools:1",
    ]
    assert command[-1] == "--load-model=tensorrt_llm"


def test_ranks_fill_one_machine_after_the_other(h100: Machine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """TensorRT-LLM gives rank R the GPU R modulo those of a machine (worldConfig.h)."""
    config = EngineConfig.read(spread_over_two(h100, tiny_checkpoint, tmp_path).parent / "engine")
    four = replace(config, tensor_parallel=4, gpus_per_node=2)
    group = {"LWS_LEADER_ADDRESS": "a-0.a.b", "LWS_GROUP_SIZE": "2"}
    assert hosts_of_ranks(four, group) == ("a-0.a.b", "a-0.a.b", "a-0-1.a.b", "a-0-1.a.b")


def test_an_engine_for_several_machines_is_not_started_on_one(
    h100: Machine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    repository = spread_over_two(h100, tiny_checkpoint, tmp_path)
    with pytest.raises(TritonError, match=r"2 machines with 1 GPUs each, but this is a group of 1 .*multiNode.nodes=2"):
        ContainerTriton.for_repository(repository, container(tmp_path), {})


def test_the_portable_engine_never_needs_it(machine: Machine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    artifact = compiled(machine, tiny_checkpoint, "demo")
    assert ContainerTriton.for_repository(artifact.repository, container(tmp_path)) is None
    assert ContainerTriton.for_repository(artifact.repository, tmp_path / "elsewhere") is None


MPIRUN = """#!/bin/bash
# Open MPI's: each rank is a process group of its own; told to end, it kills them before they have ended.
trap 'kill -KILL $(jobs -p)' TERM
set -m
shift 3
for rank in 0 1; do "$3" $rank & done
wait
"""
RANK = """#!/bin/bash
exec -a tritonserver bash -c '
trap "sleep 0.5; touch {ended}-$0; exit 0" TERM
touch {started}-$0
while :; do sleep 0.05; done' $1
"""


def test_the_ranks_end_by_themselves_when_the_service_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, programs = container(tmp_path), tmp_path / "programs"
    (root / "bin").mkdir()
    programs.mkdir()
    for path, text in (
        (programs / "mpirun", MPIRUN),
        (root / "bin" / "tritonserver", RANK.format(started=tmp_path / "started", ended=tmp_path / "ended")),
    ):
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    server = TritonServer(tmp_path / "repository", Addresses.free(), tmp_path / "log")
    vars(server)["_container"] = ContainerTriton(root, 2)
    server.start()
    try:
        wait_for(lambda: len(list(tmp_path.glob("started-*"))) == 2)
    finally:
        server.stop()
    assert len(list(tmp_path.glob("ended-*"))) == 2, (tmp_path / "log").read_text()
    assert session_commands(server.pid) == {}


def test_mpirun_is_told_to_end_where_it_alone_reaches_every_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    mpirun = programs / "mpirun"
    mpirun.write_text(
        f"#!/bin/bash\ntrap 'touch {tmp_path}/told; exit' TERM\ntouch {tmp_path}/up\nwhile :; do sleep 0.05; done"
    )
    mpirun.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    server = TritonServer(tmp_path / "repository", Addresses.free(), tmp_path / "log")
    vars(server)["_container"] = ContainerTriton(container(tmp_path), 2, hosts=("a-0.a", "a-0-1.a"))
    server.start()
    try:
        wait_for((tmp_path / "up").exists)
    finally:
        server.stop()
    assert (tmp_path / "told").exists()


@pytest.mark.parametrize(("recent", "error"), [(60.0, OutOfMemoryError), (0.0, TritonError)])
def test_memory_that_ran_out_long_ago_is_not_the_reason_of_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recent: float, error: type[TritonError]
) -> None:
    root = container(tmp_path)
    (root / "bin").mkdir()
    program = root / "bin" / "tritonserver"
    program.write_text("#!/bin/bash\necho 'CUDA out of memory'\nsleep 0.5\nexit 1")
    program.chmod(0o755)
    monkeypatch.setattr(triton, "RECENT_SECONDS", recent)
    log = ProcessLog(stream=io.StringIO())
    server = TritonServer(tmp_path / "repository", Addresses.free(), log)
    vars(server)["_container"] = ContainerTriton(root, 1)
    server.start()
    server.wait()
    log.close()
    with pytest.raises(TritonError) as raised:
        server.check()
    server.stop()
    assert type(raised.value) is error


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
