"""The command that starts NVIDIA's Triton for compiled engines, one rank or several."""

from pathlib import Path

from build_engine.build import Artifact, build
from build_engine.cache import Cache
from build_engine.profiles import PROFILES
from nimble_coder.triton.container import ContainerTriton
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
    assert command[:4] == ["mpirun", "--allow-run-as-root", "-n", "1"]
    first, second = " ".join(command[2:]).split(" : ")
    assert first.startswith("-n 1 ")
    assert "--load-model" not in first
    assert second.endswith("shm-region-prefix-name=x-1- --model-control-mode=explicit --load-model=tensorrt_llm")


def test_the_portable_engine_never_needs_it(machine: Machine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    artifact = compiled(machine, tiny_checkpoint, "demo")
    assert ContainerTriton.for_repository(artifact.repository, container(tmp_path)) is None
    assert ContainerTriton.for_repository(artifact.repository, tmp_path / "elsewhere") is None
