"""The cache's inventory, and what may be removed from it."""

import fcntl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.inventory import inventory, prunable, remove, size_of
from build_engine.profiles import PROFILES
from build_engine.weights import import_weights
from tests.standin.machine import Machine


@pytest.fixture
def cache(machine: Machine) -> Cache:
    return Cache(machine.cache)


@pytest.fixture
def demo(cache: Cache, tiny_checkpoint: Path) -> Artifact:
    return build(PROFILES["demo"], tiny_checkpoint, cache, lambda _: None)


def test_an_empty_cache_is_empty(cache: Cache) -> None:
    assert inventory(cache) == []


def test_artefacts_and_checkpoints_are_listed_with_size_and_verification(
    cache: Cache, demo: Artifact, tiny_checkpoint: Path
) -> None:
    import_weights(tiny_checkpoint, "Qwen/Qwen2.5-Coder-0.5B", cache, lambda _: None)
    artifact, checkpoint = inventory(cache)
    assert (artifact.kind, artifact.profile, artifact.verification, artifact.state) == (
        "artifact",
        "demo",
        "skipped",
        "ok",
    )
    assert artifact.bytes > (tiny_checkpoint / "model.safetensors").stat().st_size
    assert (checkpoint.kind, checkpoint.profile) == ("checkpoint", "Qwen/Qwen2.5-Coder-0.5B")


def test_changed_content_of_the_same_size_is_found_by_reading_everything(cache: Cache, demo: Artifact) -> None:
    file = demo.engine / "rank0.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert not inventory(cache)[0].is_damaged
    (entry,) = inventory(cache, read_everything=True)
    assert entry.is_damaged
    assert "changed after it was built" in entry.state


def test_damaged_artefacts_and_idle_leftovers_go_and_others_stay(cache: Cache, demo: Artifact) -> None:
    leftover = cache.artifacts / ".demo-0.building"
    leftover.mkdir()
    assert [entry.path for entry in prunable(cache, superseded=False)] == [leftover]
    (demo.engine / "config.json").unlink()
    for entry in prunable(cache, superseded=False):
        remove(cache, entry)
    assert inventory(cache) == []


def test_a_draft_that_a_builder_works_on_stays(cache: Cache, demo: Artifact) -> None:
    draft = cache.artifacts / ".demo-1.building"
    draft.mkdir()
    with (cache.artifacts / ".demo-1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert prunable(cache, superseded=False) == []
    assert [entry.path for entry in prunable(cache, superseded=False)] == [draft]


def test_an_import_that_is_going_on_stays(cache: Cache, tiny_checkpoint: Path) -> None:
    snapshot = import_weights(tiny_checkpoint, "Qwen/Qwen2.5-Coder-0.5B", cache, lambda _: None).directory
    snapshot.with_name(f".{snapshot.name}.building").mkdir()
    with cache.lock(snapshot):
        assert prunable(cache, superseded=False) == []
    assert len(prunable(cache, superseded=False)) == 1


def test_superseded_keeps_the_newest_of_each_profile(cache: Cache, demo: Artifact, tiny_checkpoint: Path) -> None:
    older = demo.directory.with_name("demo-older")
    demo.directory.rename(older)
    manifest = older / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"built_at": "2', '"built_at": "1'))
    newer = build(PROFILES["demo"], tiny_checkpoint, cache, lambda _: None)
    assert prunable(cache, superseded=False) == []
    assert [entry.path for entry in prunable(cache, superseded=True)] == [older]
    assert newer.directory.is_dir()


def test_what_no_build_has_put_there_is_not_removed(cache: Cache, demo: Artifact) -> None:
    """Any directory may be named as the cache, and many have a folder `artifacts`."""
    others = [cache.artifacts / name for name in ("report", ".git", "report-1234", ".notes")]
    for other in others[:3]:
        other.mkdir()
        (other / "file").write_text("mine")
    others[3].write_text("mine")
    assert prunable(cache, superseded=True) == []
    listed = {entry.path: entry for entry in inventory(cache)}
    assert listed.keys() == {demo.directory, others[0], others[2]}
    assert "it has no manifest.json" in listed[others[0]].state
    assert not listed[others[0]].is_damaged
    (demo.directory / "manifest.json").unlink()
    assert [entry.path for entry in prunable(cache, superseded=False)] == [demo.directory]


def test_an_artefact_that_is_being_built_anew_stays(cache: Cache, demo: Artifact) -> None:
    (demo.engine / "config.json").unlink()
    with cache.lock(demo.directory):
        assert prunable(cache, superseded=False) == []
    assert len(prunable(cache, superseded=False)) == 1


def test_of_a_link_to_an_artefact_the_link_goes(cache: Cache, demo: Artifact, tmp_path: Path) -> None:
    elsewhere = demo.directory.rename(tmp_path / demo.directory.name)
    demo.directory.symlink_to(elsewhere)
    (elsewhere / "engine" / "config.json").unlink()
    for entry in prunable(cache, superseded=False):
        remove(cache, entry)
    assert not demo.directory.is_symlink()
    assert (elsewhere / "manifest.json").is_file()


def test_sizes_are_told_while_a_builder_renames_and_removes(cache: Cache, tmp_path: Path) -> None:
    place, ended = cache.artifacts / "demo-0123456789abcdef", threading.Event()

    def build_again_and_again() -> None:
        while not ended.is_set():
            with cache.draft(place) as draft:
                for number in range(50):
                    (draft / f"part{number}").mkdir()
                    (draft / f"part{number}" / "weights").write_bytes(b"x")

    cache.artifacts.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        builder = pool.submit(build_again_and_again)
        try:
            for _ in range(200):
                inventory(cache)
                size_of(cache.artifacts)
        finally:
            ended.set()
        builder.result()
