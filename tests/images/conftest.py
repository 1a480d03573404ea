"""Each image is built once a session, in a storage that the next session finds again."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.bases import (
    ROOT,
    make_context,
    make_cpu_image,
    make_cuda_image,
    make_python_base,
    make_triton_base,
    shared_podman,
)
from tests.images.podman import Podman, say
from tests.standin.machine import write_tiny_checkpoint

BUILD, RUNTIME, WITH_ENGINE = (
    f"localhost/nimble-coder:{target}" for target in ("build", "runtime", "runtime-with-engine")
)


@pytest.fixture(scope="session")
def token() -> str:
    """A password that is in everything secret that a build is given, and must be in no image."""
    return f"hf_planted{secrets.token_hex(12)}"


@pytest.fixture(scope="session")
def podman(token: str) -> Iterator[Podman]:
    if os.geteuid():
        pytest.fail("the images are built and run as root: run scripts/test-images as root")
    with shared_podman(token) as engine:
        yield engine


@pytest.fixture(scope="session")
def context(podman: Podman, token: str) -> Path:
    """The build context: the working tree, with a secret lying about as in a developer's."""
    place = make_context(podman)
    (place / ".env").write_text(f"HF_TOKEN={token}\n")
    return place


@pytest.fixture(scope="session")
def cpu_image(podman: Podman, context: Path) -> str:
    return make_cpu_image(podman, context)


@pytest.fixture(scope="session")
def cuda_image(podman: Podman, context: Path, cpu_image: str) -> str:
    """After the CPU image, whose package is in it."""
    return make_cuda_image(podman, context)


@pytest.fixture(scope="session")
def triton_base(podman: Podman) -> str:
    """A stand-in under NVIDIA's name."""
    make_python_base(podman)
    return make_triton_base(podman)


@pytest.fixture(scope="session")
def build_image(podman: Podman, context: Path, triton_base: str) -> str:
    say("building the target build")
    podman.build(context, BUILD, "--target=build")
    return BUILD


@pytest.fixture(scope="session")
def runtime_image(podman: Podman, context: Path, build_image: str) -> str:
    """The default target."""
    podman.build(context, RUNTIME)
    return RUNTIME


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stand-in engine generates, with the embedded model's tokenizer, where every user may read it."""
    directory = tmp_path_factory.mktemp("models") / "checkpoint"
    directory.parent.chmod(0o755)
    write_tiny_checkpoint(directory, vocab_size=4096)
    (directory / "model.safetensors").chmod(0o644)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(ROOT / "build_engine" / "embedded_model" / name, directory / name)
    return directory
