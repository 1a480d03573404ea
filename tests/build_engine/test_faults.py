"""Faults: whatever goes wrong, the exit code says what kind it was, and nothing half-built is published."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache, CacheError
from build_engine.engines import torch as torch_engine
from build_engine.machine import check_serves
from build_engine.manifest import ManifestError
from build_engine.profiles import PROFILES
from build_engine.store import create_store
from build_engine.versions import IncompatibleError
from tests.build_engine.conftest import fill, make_read_only
from tests.standin.machine import A100, H100, Machine

THIRTY_TWO = "qwen2.5-coder-32b-instruct-h100-bf16-tp2-w15n15g15"
STAGES = (
    "hashing",
    "building the tensorrt engine",
    "[1/3] convert the checkpoint, rank 0",
    "[2/3] convert the checkpoint, rank 1",
    "[3/3] compile",
    "rendering",
    "verifying",
    "publishing",
)
"""What a build says at the boundaries of its stages, in order."""


def arguments(checkpoint: Path, *more: object) -> list[object]:
    return ["build-engine", "-p", THIRTY_TWO, "--from", checkpoint, "--skip-verify", *more]


def killed_at(stage: str, machine: Machine, checkpoint: Path) -> subprocess.CompletedProcess[str]:
    """A builder that gets SIGKILL when it reaches a stage; its verification asks the engine nothing."""
    code = f"""
import os, signal
from pathlib import Path
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.profiles import PROFILES
from build_engine.verify import Speed, Verification

def progress(text):
    print(text, flush=True)
    if text.startswith({stage!r}):
        os.kill(os.getpid(), signal.SIGKILL)

def verifier(profile, repository, checkpoint, progress):
    speed = Speed(2.0, 1.0, 2.0)
    return Verification(1, 1, 1, 0, 1.0, 0.0, speed, speed, profile.lookahead, 2.0)

cache = Cache(Path({str(machine.cache)!r}))
build(PROFILES[{THIRTY_TWO!r}], Path({str(checkpoint)!r}), cache, progress, verifier=verifier)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_build_says_its_stages_in_order(h100: Machine, tiny_checkpoint: Path) -> None:
    """Otherwise the test below would kill nobody."""
    said = killed_at("nowhere", h100, tiny_checkpoint).stdout.splitlines()
    assert [
        next((s for s in STAGES if line.startswith(s)), None) for line in said if not line.startswith("verified")
    ] == [
        *STAGES,
        None,
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_a_builder_killed_at_any_stage_publishes_nothing_and_the_next_one_succeeds(
    h100: Machine, tiny_checkpoint: Path, stage: str
) -> None:
    assert killed_at(stage, h100, tiny_checkpoint).returncode == -signal.SIGKILL
    assert h100.artifacts == []
    done = h100.call(*arguments(tiny_checkpoint))
    assert done.returncode == 0, done.stderr
    assert h100.artifacts == [Path(done.stdout.strip())]
    assert h100.leftovers == []


def test_a_builder_killed_with_another_artefacts_engine_in_its_draft_leaves_that_one_whole(
    h100: Machine, tiny_checkpoint: Path
) -> None:
    donor = build(replace(PROFILES[THIRTY_TWO], max_queue_factor=2), tiny_checkpoint, Cache(h100.cache), lambda _: None)
    killed = killed_at("rendering", h100, tiny_checkpoint)
    assert f"taking the engine of {donor.directory}" in killed.stdout
    assert h100.artifacts == [donor.directory]
    compiled = len(h100.calls)
    second = build(PROFILES[THIRTY_TWO], tiny_checkpoint, Cache(h100.cache), lambda _: None)
    assert len(h100.calls) == compiled
    for artifact in (donor, second):
        artifact.manifest.check_hashes(artifact.directory)


def test_a_compiler_that_outlives_its_builder_keeps_the_next_one_waiting(h100: Machine, tiny_checkpoint: Path) -> None:
    released = h100.home / "released"
    h100.set(STANDIN_BUILD="wait", STANDIN_UNTIL=released)
    first = subprocess.Popen(
        h100.command(*arguments(tiny_checkpoint)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: any(call["command"] == "trtllm-build" for call in h100.calls))
    first.kill()
    first.wait()
    h100.set(STANDIN_BUILD="")
    with subprocess.Popen(
        h100.command(*arguments(tiny_checkpoint)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as second:
        assert second.stderr is not None
        for line in second.stderr:
            if "waiting for another builder" in line:
                break
        compiled = len(h100.calls)
        released.touch()
        printed, said = second.communicate()
    assert second.returncode == 0, said
    assert len(h100.calls) > compiled  # only then it compiled itself
    Artifact.open(Path(printed.strip())).manifest.check_hashes(Path(printed.strip()))


def test_two_builders_at_once_build_once(h100: Machine, tiny_checkpoint: Path) -> None:
    h100.set(STANDIN_BUILD="hang", STANDIN_SECONDS=2)
    builders = [
        subprocess.Popen(
            h100.command(*arguments(tiny_checkpoint)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    answers = [builder.communicate() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert sum(call["command"] == "trtllm-build" for call in h100.calls) == 1
    assert any("already built" in stderr for _, stderr in answers)


def test_a_disk_too_small_for_the_engine_is_refused_before_the_first_command(
    h100: Machine, tiny_checkpoint: Path, small_disk: Path
) -> None:
    fill(small_disk, 400_000)
    answer = h100.call(*arguments(tiny_checkpoint, "--cache", small_disk / "cache"))
    assert answer.returncode == 7
    assert "make room" in answer.stderr
    assert h100.calls == []


def test_a_disk_too_small_for_a_portable_engine_is_refused_before_it_is_packed(
    tiny_checkpoint: Path, small_disk: Path
) -> None:
    fill(small_disk, 50_000)
    said: list[str] = []
    with pytest.raises(CacheError, match=r"building demo needs \d+\.\d [kM]B, .* has \d+\.\d kB free: make room"):
        build(PROFILES["demo"], tiny_checkpoint, Cache(small_disk / "cache"), said.append)


def test_a_disk_that_fills_up_publishes_nothing(
    tiny_checkpoint: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(small_disk, 50_000)
    cache = Cache(small_disk / "cache")
    monkeypatch.setattr(cache, "check_space", lambda *_: None)  # there was room when the build began
    with pytest.raises(CacheError, match="is full: make room"):
        build(PROFILES["demo"], tiny_checkpoint, cache, lambda _: None)
    assert [path for path in cache.artifacts.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EACCES])
def test_a_file_system_that_refuses_ends_as_an_error_of_the_cache(
    machine: Machine, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(torch_engine, "build_torch_engine", refuse)
    with pytest.raises(CacheError, match="choose another place with --cache"):
        build(PROFILES["demo"], tiny_checkpoint, Cache(machine.cache), lambda _: None)
    assert machine.artifacts == machine.leftovers == []


def test_a_read_only_cache_is_refused_before_the_first_command(
    h100: Machine, tiny_checkpoint: Path, small_disk: Path
) -> None:
    make_read_only(small_disk)
    place = small_disk / "cache"
    download = ["download-to-cache", "-p", THIRTY_TWO, "--from", tiny_checkpoint, "--cache", place]
    for command in (arguments(tiny_checkpoint, "--cache", place), download):
        answer = h100.call(*command)
        assert answer.returncode == 9, answer.stderr
        assert "cannot be written" in answer.stderr
        assert "choose another place with --cache" in answer.stderr
    assert h100.calls == []


def test_what_is_in_a_read_only_cache_is_found_and_cannot_be_pruned(
    h100: Machine, tiny_checkpoint: Path, small_disk: Path
) -> None:
    cache = small_disk / "cache"
    first = build(PROFILES[THIRTY_TWO], tiny_checkpoint, Cache(cache), lambda _: None)
    (cache / "artifacts" / ".other-0.building").mkdir()
    make_read_only(small_disk)
    found = h100.call(*arguments(tiny_checkpoint, "--cache", cache))
    assert (found.returncode, found.stdout.strip()) == (0, str(first.directory)), found.stderr
    verified = h100.call("cache", "verify", "--cache", cache)
    assert verified.stdout.startswith(f"ok       {first.directory}\n1 of 1 artefacts ")
    pruned = h100.call("cache", "prune", "--cache", cache)
    assert pruned.returncode == 9
    assert "cannot be written" in pruned.stderr


@pytest.mark.parametrize(
    ("prepare", "code", "message"),
    [
        (lambda machine: machine.gpus(), 3, "no GPU found"),
        (lambda machine: machine.gpus(A100, A100), 3, "needs H100, this machine has NVIDIA A100-SXM4-80GB"),
        (lambda machine: machine.gpus(H100), 3, "needs 2 H100, this machine has 1"),
        (lambda machine: machine.tensorrt_llm("0.18.2"), 3, "no lookahead parameters"),
        (lambda machine: machine.tensorrt_llm("0.20.0"), 3, "#5451"),
        (lambda machine: machine.tensorrt_llm("1.0.0"), 3, "--allow-unproven"),
        (lambda machine: shutil.rmtree(machine.home / "site"), 3, "TensorRT-LLM is not installed here"),
        (lambda machine: machine.set(STANDIN_BUILD="exit"), 5, "exit code 3"),
        (lambda machine: machine.set(STANDIN_BUILD="partial"), 5, "rank1.engine is missing"),
        (lambda machine: machine.set(STANDIN_CONVERT="exit"), 5, "file is truncated"),
    ],
    ids=["no GPU", "other GPU", "one GPU", "0.18.2", "0.20.0", "1.0.0", "none", "compiler", "partial", "conversion"],
)
def test_what_is_wrong_with_the_machine_or_the_build_has_its_exit_code(
    h100: Machine, tiny_checkpoint: Path, prepare: Callable[[Machine], object], code: int, message: str
) -> None:
    prepare(h100)
    answer = h100.call(*arguments(tiny_checkpoint))
    assert answer.returncode == code, answer.stderr
    assert message in answer.stderr
    assert 'cli.py", line' not in answer.stderr  # the only traceback shown is a command's own
    assert h100.artifacts == h100.leftovers == []
    if code == 3:
        assert h100.calls == []


def test_the_guard_refuses_before_any_download(h100: Machine) -> None:
    h100.tensorrt_llm("0.18.2")
    h100.set(HF_ENDPOINT="http://127.0.0.1:9")
    answer = h100.call("build-engine", "-p", THIRTY_TWO)
    assert answer.returncode == 3
    assert "trying again" not in answer.stderr
    assert not h100.cache.exists()


@pytest.mark.parametrize("damage", ["remove", "shorten", "manifest"])
def test_a_damaged_engine_is_noticed_at_the_start_and_built_again(
    h100: Machine, tiny_checkpoint: Path, damage: str
) -> None:
    artifact = build(PROFILES[THIRTY_TWO], tiny_checkpoint, Cache(h100.cache), lambda _: None)
    file = artifact.engine / "rank1.engine"
    if damage == "remove":
        file.unlink()
    elif damage == "shorten":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        (artifact.directory / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match="build the artefact again"):
        Artifact.open(artifact.directory)
    again = build(PROFILES[THIRTY_TWO], tiny_checkpoint, Cache(h100.cache), lambda _: None)
    Artifact.open(again.directory)


def test_an_engine_does_not_start_on_another_machine(h100: Machine, tiny_checkpoint: Path) -> None:
    artifact = build(PROFILES[THIRTY_TWO], tiny_checkpoint, Cache(h100.cache), lambda _: None)
    check_serves(artifact)
    h100.gpus(A100, A100)
    with pytest.raises(IncompatibleError, match="needs H100"):
        check_serves(artifact)
    h100.gpus(H100, H100)
    manifest = artifact.directory / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "engine_version": "0.21.0"}))
    with pytest.raises(IncompatibleError, match=r"was built by 0\.21\.0, this machine has 0\.19\.0"):
        check_serves(Artifact.open(artifact.directory))


def test_an_engine_for_several_machines_starts_on_one_with_its_share(
    h100: Machine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    built = build(PROFILES[THIRTY_TWO], tiny_checkpoint, Cache(h100.cache), lambda _: None)
    create_store(built, tmp_path / "store", gpus_per_node=1)
    h100.gpus(H100)
    check_serves(Artifact.open(tmp_path / "store"))
    with pytest.raises(IncompatibleError, match="needs 2 H100, this machine has 1"):
        check_serves(built)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
