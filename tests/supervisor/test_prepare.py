"""A cache that is filled by a job, copied, backed up and served where nothing may be built."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from build_engine.exit_codes import ExitCode
from nimble_coder.processes.triton import Addresses
from tests.conftest import MakeCheckpoint
from tests.standin.hub import Hub
from tests.standin.in_process import call
from tests.supervisor.conftest import Start, environment_of

BODY = {"prompt": "import os\nimport ", "max_tokens": 2}
PORTABLE = "qwen2.5-coder-0.5b-instruct-torch-bf16-w1n4g1"


def run(*command: str, **settings: object) -> "subprocess.CompletedProcess[str]":
    return call(Path(), *command, environment=environment_of(Addresses.free(), **settings))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("filled") / "cache"
    # What the pods are told counts for what is served; the job builds.
    settings = {"NIMBLE_CACHE_PATH": cache, "NIM_MODEL_PROFILE": "demo", "NIMBLE_BUILD_ON_START": "false"}
    done = run("prepare", **settings)
    assert done.returncode == 0, done.stderr
    assert "[prepare] building demo" in done.stderr
    assert "[build]   verified" in done.stderr
    assert done.stderr.splitlines()[-1] == "[prepare] the cache is filled"
    again = run("prepare", **settings)
    assert (again.returncode, "[prepare] there already" in again.stderr) == (0, True)
    assert "[build]" not in again.stderr
    return cache


def archived(cache: Path, place: Path) -> None:
    """As a backup would: one file, and out of it again."""
    archive = place.with_suffix(".tar")
    subprocess.run(["tar", "--create", "--file", archive, "--directory", cache, "."], check=True)
    place.mkdir()
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", place], check=True)


def copied(cache: Path, place: Path) -> None:
    subprocess.run(["cp", "--archive", cache, place], check=True)


@pytest.mark.parametrize("bring", [copied, archived])
def test_a_cache_is_served_from_another_place_read_only_where_nothing_may_be_built(
    filled: Path, start: Start, tmp_path: Path, bring: Callable[[Path, Path], None]
) -> None:
    place = tmp_path / "elsewhere" / "cache"
    place.parent.mkdir()
    bring(filled, place)
    assert run("cache", "verify", "--cache", str(place)).returncode == 0
    hidden = filled.with_name("hidden")
    filled.rename(hidden)  # nothing may come from where it was made
    try:
        before = files_of(place)
        service = start(NIMBLE_CACHE_PATH=place, NIM_MODEL_PROFILE="demo", NIMBLE_BUILD_ON_START="false")
        service.wait_ready()
        assert httpx.post(f"{service.addresses.http}/v1/completions", json=BODY, timeout=60).status_code == 200
        assert not any(line.startswith("[build]") for line in service.output)
        assert files_of(place) == before
    finally:
        hidden.rename(filled)


def files_of(directory: Path) -> dict[str, int]:
    """With their sizes."""
    return {str(path.relative_to(directory)): path.stat().st_size for path in directory.rglob("*") if path.is_file()}


def test_a_copy_that_was_cut_is_seen_and_not_served(filled: Path, start: Start, tmp_path: Path) -> None:
    place = tmp_path / "cache"
    copied(filled, place)
    largest = max((path for path in place.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    damaged = run("cache", "verify", "--cache", str(place))
    assert damaged.returncode == ExitCode.ARTIFACT
    assert largest.name in damaged.stderr
    service = start(NIMBLE_CACHE_PATH=place, NIM_MODEL_PROFILE="demo", NIMBLE_BUILD_ON_START="false")
    assert service.process.wait(60) in (ExitCode.ARTIFACT, ExitCode.NO_ENGINE)
    shutil.rmtree(place)


def test_for_an_air_gap_the_checkpoint_alone_is_fetched(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    with Hub("Qwen/Qwen2.5-Coder-0.5B-Instruct", make_checkpoint()) as hub:
        settings = {"NIMBLE_CACHE_PATH": tmp_path / "cache", "NIM_MODEL_PROFILE": PORTABLE, "HF_ENDPOINT": hub.url}
        done = run("prepare", "--download-only", NIMBLE_ENGINE_DEVICE="cuda", **settings)  # on a node without a GPU
        assert done.returncode == 0, done.stderr
        assert "downloading the checkpoint of" in done.stderr
    (weights,) = (tmp_path / "cache").rglob("snapshots/*/model.safetensors")
    assert weights.stat().st_size > 0
    assert not list((tmp_path / "cache" / "artifacts").glob("[!.]*"))


def test_the_hubs_token_may_be_in_a_file(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """Variables are shown by `docker inspect`."""
    (tmp_path / "token").write_text("hf_private\n")
    with Hub("Qwen/Qwen2.5-Coder-0.5B-Instruct", make_checkpoint(), token="hf_private") as hub:
        settings = {"NIMBLE_CACHE_PATH": tmp_path / "cache", "NIM_MODEL_PROFILE": PORTABLE, "HF_ENDPOINT": hub.url}
        with_file = {"HF_TOKEN": "", "HF_TOKEN_PATH": tmp_path / "token"}  # as compose.yaml sets the variable
        done = run("prepare", "--download-only", **settings, **with_file)
    assert done.returncode == 0, done.stderr
    assert "hf_private" not in done.stderr


def test_what_fails_says_so_with_the_builds_own_exit_code(tmp_path: Path) -> None:
    settings = {"NIMBLE_CACHE_PATH": tmp_path, "NIM_MODEL_PROFILE": PORTABLE, "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = run("prepare", HF_HUB_OFFLINE=1, **settings)
    assert done.returncode == ExitCode.CHECKPOINT, done.stderr
    assert done.stderr.splitlines()[-1].startswith("[prepare] error: the build")
    wrong = run("prepare", NIMBLE_CACHE_PATH=tmp_path, NIM_MODEL_PROFILE="nothing")
    assert wrong.returncode == ExitCode.ASKED
