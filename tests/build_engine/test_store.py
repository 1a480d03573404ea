"""Model stores: an artefact that moved, with every path where it is now."""

import errno
import json
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from build_engine.build import BuildOptions, build
from build_engine.cache import Cache, copy_files
from build_engine.engine_config import EngineConfig
from build_engine.profiles import PROFILES, ProfileError
from build_engine.store import StoreError, StoreFullError, create_store
from tests.build_engine.conftest import fill
from tests.standin.machine import Machine

SEVEN = PROFILES["qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"]


@pytest.fixture
def built(h100: Machine, tiny_checkpoint: Path) -> Artifact:
    options = BuildOptions(companion=True)
    return build(SEVEN, tiny_checkpoint, Cache(h100.cache), lambda _: None, options=options)


def test_a_store_is_an_artefact_that_needs_no_cache(built: Artifact, tmp_path: Path) -> None:
    repository = create_store(built, tmp_path / "store")
    store = Artifact.open(tmp_path / "store")
    store.manifest.check_hashes(store.directory)
    assert repository == store.repository
    config = (repository / "tensorrt_llm" / "config.pbtxt").read_text()
    assert str(tmp_path / "store" / "engine") in config
    assert str(built.directory) not in config
    assert (repository / "tensorrt_llm_plain" / "config.pbtxt").is_file()


def test_a_store_may_name_the_place_where_it_will_be_mounted(built: Artifact, tmp_path: Path) -> None:
    repository = create_store(built, tmp_path / "store", Path("/model-store"))
    assert '"/model-store/engine"' in (repository / "tensorrt_llm" / "config.pbtxt").read_text()
    assert '"/model-store/tokenizer"' in (repository / "preprocessing" / "config.pbtxt").read_text()


def test_a_directory_in_use_is_not_overwritten(built: Artifact, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    create_store(built, tmp_path / "store")
    with pytest.raises(StoreError, match="is not empty"):
        create_store(built, tmp_path / "store")


def test_a_store_for_several_machines_says_how_many_gpus_each_has_and_changes_nothing_else(
    h100: Machine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    profile = PROFILES["qwen2.5-coder-32b-instruct-h100-bf16-tp2-w15n15g15"]
    built = build(profile, tiny_checkpoint, Cache(h100.cache), lambda _: None)
    create_store(built, tmp_path / "store", gpus_per_node=1)
    store = Artifact.open(tmp_path / "store")
    store.manifest.check_hashes(store.directory)
    assert (EngineConfig.read(built.engine).nodes, EngineConfig.read(store.engine).nodes) == (1, 2)
    was, is_ = (json.loads((each.engine / "config.json").read_text()) for each in (built, store))
    assert is_["pretrained_config"]["mapping"].pop("gpus_per_node") == 1
    was["pretrained_config"]["mapping"].pop("gpus_per_node", None)
    assert is_ == was
    for rank in ("rank0.engine", "rank1.engine"):
        assert (store.engine / rank).read_bytes() == (built.engine / rank).read_bytes()


@pytest.mark.parametrize("gpus", [1, 2])
def test_an_engine_of_one_rank_is_not_spread(built: Artifact, tmp_path: Path, gpus: int) -> None:
    with pytest.raises(ProfileError, match=r"1 ranks of .* cannot be spread over machines with"):
        create_store(built, tmp_path / "store", gpus_per_node=gpus)
    assert not (tmp_path / "store").exists()


def test_a_store_on_a_full_disk_is_told_and_nothing_is_left(built: Artifact, small_disk: Path) -> None:
    fill(small_disk, 8_000)
    with pytest.raises(StoreFullError, match="is full: make room"):
        create_store(built, small_disk / "store")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_store_cannot_take_the_place_of_a_volume_or_a_link(built: Artifact, small_disk: Path) -> None:
    with pytest.raises(StoreError, match="a volume is mounted, whose place no store can take"):
        create_store(built, small_disk)
    for goal in ("nowhere", small_disk):
        link = small_disk.with_name("link")
        link.symlink_to(goal)
        with pytest.raises(StoreError, match="is a link, whose place no store can take"):
            create_store(built, link)
        link.unlink()
    with pytest.raises(StoreError, match="cannot be made: File name too long"):
        create_store(built, small_disk / ("s" * 300))


def test_a_copy_that_fails_says_why_as_the_file_system_did(built: Artifact, tmp_path: Path) -> None:
    def refuse(*_: str) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full") as refused:
        copy_files(built.directory, tmp_path / "copy", refuse)
    assert refused.value.errno == errno.ENOSPC
