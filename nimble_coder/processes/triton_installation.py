"""The portable Triton of the `nvidia-pytriton` wheel: where it is, and how its backends are laid out."""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from build_engine.shipped import shipped
from nimble_coder.processes.errors import TritonError

STUB = "triton_python_backend_stub"
"""The program that runs a Python model for Triton; its first argument is the model's file."""
BACKENDS = shipped(Path(__file__).parents[1], "backends")
"""Where the portable twin of the C++ backend is."""


@dataclass(frozen=True)
class Installation:
    """The Triton that the `nvidia-pytriton` wheel carries: the server and its Python backend."""

    root: Path

    @classmethod
    def find(cls) -> "Installation":
        """Raises `TritonError` where the wheel or a shared libpython is missing."""
        spec = find_spec("pytriton")
        if spec is None or spec.origin is None:
            raise TritonError("no tritonserver is installed: pip install 'nimble-coder[serve]'")
        return cls(Path(spec.origin).parent / "tritonserver")

    @property
    def binary(self) -> Path:
        return self.root / "bin" / "tritonserver"

    @property
    def stub(self) -> Path:
        """The Python backend's per-model process for the running interpreter's version."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        path = self.root / "python_backend_stubs" / version / STUB
        if not path.is_file():
            raise TritonError(f"this Triton has no Python backend for Python {version}: use 3.11 or 3.12")
        return path

    def launch(self, arguments: list[str], shared_memory: str) -> list[str]:
        """The command that starts Triton with these arguments."""
        return [str(self.binary), *arguments, f"--backend-config=python,shm-region-prefix-name={shared_memory}"]

    def backends(self, directory: Path) -> Path:
        """Where the backends will be once they are assembled."""
        return directory

    def assemble_backends(self, directory: Path) -> None:
        """Lays out a backend directory: Triton's `python` with the right stub, and our `tensorrtllm`.

        Raises `TritonError` where no library can be loaded from there.
        """
        if os.statvfs(directory.parent).f_flag & os.ST_NOEXEC:
            raise TritonError(
                f"{directory.parent} is mounted noexec, and Triton's backend is loaded from there: mount it with exec "
                f"(docker run --tmpfs /tmp:exec), or set TMPDIR"
            )
        for source, name in ((self.root / "backends" / "python", "python"), (BACKENDS / "tensorrtllm", "tensorrtllm")):
            shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        # A link, not a copy: the stub finds the wheel's libraries relative to where it really is.
        (directory / "python" / STUB).symlink_to(self.stub)


def shared_libpython() -> Path | None:
    """The directory of this interpreter's shared library, which the stub is linked against, where it is not a
    system directory. Raises `TritonError` where there is none anywhere."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    own = Path(str(sysconfig.get_config_var("LIBDIR"))) / name
    if own.is_file():
        return own.parent
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    if name not in known:
        raise TritonError(f"{name} is missing, Triton's Python backend needs it: apt-get install libpython{version}")
    return None
