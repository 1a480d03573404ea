"""NVIDIA's own Triton with the C++ backend, which runs compiled engines inside its container.

Several GPUs: one process a rank under mpirun, in leader mode, as scripts/launch_triton_server.py of tensorrtllm_backend
v0.19.0 starts them; the ranks behind the first load the engines alone and never open their ports.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from build_engine.artifact import ENGINE_MODEL, PLAIN_MODEL
from build_engine.engine_config import TORCH_ENGINES, EngineConfig

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

    @classmethod
    def for_repository(cls, repository: Path, root: Path = ROOT) -> "ContainerTriton | None":
        """The container's Triton where the repository's engine is a compiled one and this is the container."""
        config = repository / "tensorrt_llm" / "config.pbtxt"
        if not (root / "backends" / "tensorrtllm").is_dir() or not config.is_file():
            return None
        text = config.read_text(encoding="utf-8")
        named = re.search(r'"gpt_model_path" value: \{ string_value: "([^"]+)"', text)
        engine = EngineConfig.read(Path(named[1])) if named else None
        if engine is None or engine.version in TORCH_ENGINES:
            return None
        models = [model for model in (ENGINE_MODEL, PLAIN_MODEL) if (repository / model).is_dir()]
        return cls(root, engine.tensor_parallel, tuple(models))

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
        contexts = [part for command in commands for part in (":", "-n", "1", *command)][1:]
        return ["mpirun", *MPI, *contexts]
