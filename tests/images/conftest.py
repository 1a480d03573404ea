"""Each image is built once a session, in a storage that the next session finds again."""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.bases import ROOT, build_options, make_python_base, make_triton_base
from tests.images.podman import Podman, say

SOURCES = ("Dockerfile", ".dockerignore", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE")
FOLDERS = ("requirements", "build_engine", "nimble_coder", "model_repository", "backends")
CPU, BUILD, RUNTIME, WITH_ENGINE = (
    f"localhost/nimble-coder:{target}" for target in ("runtime-cpu", "build", "runtime", "runtime-with-engine")
)


@pytest.fixture(scope="session")
def token() -> str:
    """A password that is in everything secret that a build is given, and must be in no image."""
    return f"hf_planted{secrets.token_hex(12)}"


@pytest.fixture(scope="session")
def podman(token: str) -> Iterator[Podman]:
    if os.geteuid():
        pytest.fail("the images are built and run as root: run scripts/test-images as root")
    work = Path(os.environ.get("NIMBLE_IMAGES_WORK", "~/.cache/nimble-coder-images")).expanduser().absolute()
    work.mkdir(parents=True, exist_ok=True)
    say(f"images and logs are kept in {work}")
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two sessions would remove each other's containers
        engine = Podman(work)
        engine.build_options = build_options(engine, token)
        yield engine
        engine.remove_containers()
        engine.run("network", "rm", "--force", "internal")


@pytest.fixture(scope="session")
def context(podman: Podman, token: str) -> Path:
    """The build context: the working tree, with a secret lying about as in a developer's."""
    place = podman.work / "context"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name in SOURCES:
        shutil.copy2(ROOT / name, place)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    (place / ".env").write_text(f"HF_TOKEN={token}\n")
    return place


@pytest.fixture(scope="session")
def cpu_image(podman: Podman, context: Path) -> str:
    make_python_base(podman)
    say("building runtime-cpu (two minutes the first time)")
    podman.build(context, CPU, "--target=runtime-cpu")
    return CPU


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
    """The embedded model with the configuration of a published one, where every user may read it."""
    directory = tmp_path_factory.mktemp("models") / "checkpoint"
    directory.parent.chmod(0o755)
    shutil.copytree(ROOT / "build_engine" / "embedded_model", directory)
    config = json.loads((directory / "config.json").read_text())
    rope = {"max_position_embeddings": 32768, "rope_theta": config["rope_parameters"]["rope_theta"]}
    (directory / "config.json").write_text(json.dumps({**config, **rope}))
    return directory
