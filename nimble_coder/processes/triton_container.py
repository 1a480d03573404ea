"""NVIDIA's own Triton with the C++ backend, which runs compiled engines inside its container.

Several GPUs: one process a rank under mpirun, in leader mode, as scripts/launch_triton_server.py of tensorrtllm_backend
v0.19.0 starts them; the ranks behind the first load the engines alone and never open their ports. Several machines: the
pods of a LeaderWorkerSet's group, whose leader this is; mpirun reaches them as OMPI_MCA_plm_rsh_agent says.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from build_engine.artifact import ENGINE_MODEL, PLAIN_MODEL
from build_engine.engine_config import TORCH_ENGINES, EngineConfig
from nimble_coder.processes.errors import TritonError

ROOT = Path("/opt/tritonserver")
"""Where the container `nvcr.io/nvidia/tritonserver:*-trtllm-python-py3` has it."""

MPI = ("--allow-run-as-root", "--bind-to", "none")
"""Open MPI binds each of two ranks to one core where nobody says otherwise, and Triton with all its threads with it."""


@dataclass(frozen=True)
class ContainerTriton:
    """Stands where `nimble_coder.processes.triton.Installation` stands for the portable engine."""

    root: Path
    ranks: int
    models: tuple[str, ...] = (ENGINE_MODEL,)
    """Those that a compiled engine is behind; every rank loads its part of each."""
    hosts: tuple[str, ...] = ()
    """Of each rank, where they are on several machines."""

    @classmethod
    def for_repository(
        cls, repository: Path, root: Path = ROOT, environment: Mapping[str, str] = os.environ
    ) -> "ContainerTriton | None":
        """The container's Triton where the repository's engine is a compiled one and this is the container.

        Raises `TritonError` where the engine is for more machines than there are pods in this one's group.
        """
        config = repository / "tensorrt_llm" / "config.pbtxt"
        if not (root / "backends" / "tensorrtllm").is_dir() or not config.is_file():
            return None
        text = config.read_text(encoding="utf-8")
        named = re.search(r'"gpt_model_path" value: \{ string_value: "([^"]+)"', text)
        engine = EngineConfig.read(Path(named[1])) if named else None
        if engine is None or engine.version in TORCH_ENGINES:
            return None
        models = [model for model in (ENGINE_MODEL, PLAIN_MODEL) if (repository / model).is_dir()]
        return cls(root, engine.tensor_parallel, tuple(models), hosts_of_ranks(engine, environment))

    def backends(self, _: Path) -> Path:
        """The container's own backend directory: Triton refuses libraries that lie elsewhere."""
        return self.root / "backends"

    def assemble_backends(self, _: Path) -> None:
        """Nothing is to be done."""

    def launch(self, arguments: list[str], shared_memory: str) -> list[str]:
        """The command that starts Triton with these arguments; each rank has its own shared-memory regions."""
        commands = []
        for rank in range(self.ranks):
            command = [str(self.root / "bin" / "tritonserver"), *arguments]
            command.append(f"--backend-config=python,shm-region-prefix-name={shared_memory}{rank}-")
            if rank:
                command += ["--model-control-mode=explicit", *(f"--load-model={model}" for model in self.models)]
            commands.append(command)
        if self.ranks == 1:
            return commands[0]
        places: list[list[str]] = [["--host", f"{host}:{self.hosts.count(host)}"] for host in self.hosts]
        ranks = zip(places or [[]] * self.ranks, commands, strict=True)
        contexts = [part for place, command in ranks for part in (":", "-n", "1", *place, *command)][1:]
        return ["mpirun", *MPI, *contexts]


def hosts_of_ranks(engine: EngineConfig, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Where each rank of an engine for several machines is to run, none for an engine of one.

    A LeaderWorkerSet tells every container of a group its leader's address and the group's size; worker N of the leader
    NAME.DOMAIN is NAME-N.DOMAIN (docs of kubernetes-sigs/lws v0.9.0, and its pkg/utils/pod). Raises `TritonError`.
    """
    if engine.nodes == 1:
        return ()
    leader, size = environment.get("LWS_LEADER_ADDRESS", ""), int(environment.get("LWS_GROUP_SIZE", "1"))
    if size != engine.nodes:
        raise TritonError(
            f"the engine's ranks are for {engine.nodes} machines with {engine.gpus_per_node} GPUs each, but this is a "
            f"group of {size} (LWS_GROUP_SIZE): start it with the chart's multiNode.nodes={engine.nodes}, or serve an "
            f"engine that was not spread"
        )
    name, _, domain = leader.partition(".")
    pods = (leader, *(f"{name}-{worker}.{domain}" for worker in range(1, size)))
    return tuple(pods[rank // engine.gpus_per_node] for rank in range(engine.tensor_parallel))
