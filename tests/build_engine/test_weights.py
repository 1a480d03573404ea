"""Weights over the hub's real protocol with the real client library: whole and verified, or refused with the reason."""

import fcntl
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from build_engine import weights
from build_engine.cache import Cache, CacheError
from build_engine.checkpoint import Checkpoint, CheckpointError, sha256
from build_engine.inventory import inventory
from build_engine.weights import WANTED, fetch_weights, import_weights
from tests.build_engine.conftest import fill, make_read_only
from tests.standin.hub import COMMIT, Fault, Hub
from tests.standin.machine import Machine

REPO = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
PROFILE = "qwen2.5-coder-0.5b-instruct-torch-bf16-w1n4g1"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tiny_checkpoint: Path, tmp_path: Path, machine: Machine) -> Iterator[Hub]:
    """A hub with the checkpoint and with files that nobody needs; the commands use it."""
    directory = tmp_path / "hub"
    shutil.copytree(tiny_checkpoint, directory)
    (directory / "pytorch_model.bin").write_bytes(b"x" * 1000)
    (directory / "README.md").write_text("about")
    (directory / "LICENSE").write_text("terms")
    with Hub(REPO, directory) as running:
        machine.set(HF_ENDPOINT=running.url, HF_HUB_DOWNLOAD_TIMEOUT=5, HF_HUB_ETAG_TIMEOUT=5)
        yield running


def download(machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
    return machine.call("download-to-cache", "-p", PROFILE, *arguments)


def quick(machine: Machine) -> subprocess.CompletedProcess[str]:
    """The same with short waits between attempts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "FIRST_WAIT", 0.01)
        return download(machine)


def snapshot(answer: subprocess.CompletedProcess[str]) -> Path:
    """The directory that was printed; it holds the whole checkpoint."""
    assert answer.returncode == 0, answer.stderr
    directory = Path(answer.stdout.strip())
    Checkpoint.open(directory)
    return directory


def test_only_the_files_needed_are_downloaded_at_a_commit(hub: Hub, machine: Machine) -> None:
    directory = snapshot(download(machine))
    assert directory.name == COMMIT
    names = {path.name for path in directory.iterdir()}
    assert {WEIGHTS, "tokenizer.json", "config.json", "LICENSE"} <= names
    assert not names & {"pytorch_model.bin", "README.md"}
    assert sha256(directory / WEIGHTS) == sha256(hub.directory / WEIGHTS)


def test_a_second_download_moves_no_bytes(hub: Hub, machine: Machine) -> None:
    snapshot(download(machine))
    hub.requests.clear()
    snapshot(download(machine))
    assert not hub.downloads(WEIGHTS)
    assert not hub.downloads("config.json")


def test_an_interrupted_download_resumes_where_it_was(hub: Hub, machine: Machine) -> None:
    large(hub)
    hub.faults.append(Fault(f"GET /store/{WEIGHTS}", "cut"))
    directory = snapshot(download(machine))
    ranges = [{name.title(): value for name, value in d.items()}.get("Range") for d in hub.downloads(WEIGHTS)]
    assert ranges == [None, f"bytes={10 << 20}-"]
    assert sha256(directory / WEIGHTS) == sha256(hub.directory / WEIGHTS)


def large(hub: Hub) -> None:
    """Makes the weights larger than the pieces of 10 MiB in which they arrive."""
    tensors = load_file(hub.directory / WEIGHTS)
    tensors["padding.inv_freq"] = np.zeros(6_000_000, np.float32)
    save_file(tensors, hub.directory / WEIGHTS)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_a_download_whose_process_ended_goes_on_where_it_was(
    hub: Hub, machine: Machine, number: signal.Signals, code: int
) -> None:
    large(hub)
    hub.faults.append(Fault(f"GET /store/{WEIGHTS}", "stall"))
    blobs = machine.cache / "huggingface" / "hub" / f"models--{REPO.replace('/', '--')}" / "blobs"
    with subprocess.Popen(machine.command("download-to-cache", "-p", PROFILE), stderr=subprocess.DEVNULL) as process:
        while not any(path.stat().st_size >= 10 << 20 for path in blobs.glob("*.partial")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) == code
    (blobs / "0123.deadbeef.incomplete").write_bytes(b"of another download that was killed")
    leftovers = [entry.path.suffix for entry in inventory(Cache(machine.cache)) if entry.kind == "leftover"]
    assert sorted(leftovers) == [".incomplete", ".partial"]
    hub.requests.clear()
    directory = snapshot(download(machine))
    (headers,) = hub.downloads(WEIGHTS)
    assert {name.title(): value for name, value in headers.items()}["Range"] == f"bytes={10 << 20}-"
    assert sha256(directory / WEIGHTS) == sha256(hub.directory / WEIGHTS)
    assert not [entry.path for entry in inventory(Cache(machine.cache)) if entry.kind == "leftover"]


def test_what_killed_downloads_left_is_pruned(hub: Hub, machine: Machine) -> None:
    snapshot(download(machine))
    (blobs,) = machine.cache.glob("huggingface/hub/models--*/blobs")
    for name in ("00.partial", "11.deadbeef.incomplete", "22.deadbeef.incomplete"):
        (blobs / name).write_bytes(b"x" * 1000)
    lock = blobs.parents[1] / ".locks" / blobs.parent.name / "22.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as huggingface_hub does while it downloads
        assert machine.call("cache", "prune").returncode == 0
    assert sorted(path.name for path in blobs.glob("*.*")) == ["22.deadbeef.incomplete"]
    snapshot(download(machine))


@pytest.mark.parametrize("revision", ["main", COMMIT])
@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["other bytes", "cut", "gone"])
def test_a_damaged_snapshot_heals(hub: Hub, machine: Machine, revision: str, name: str, damage: str) -> None:
    directory = snapshot(download(machine, "--revision", revision))
    content = (directory / name).read_bytes()
    blob = (directory / name).resolve()
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(content[:-7] if damage == "cut" else content[:-7] + b"damaged")
    healed = snapshot(download(machine, "--revision", revision))
    assert (healed / name).read_bytes() == content


def test_notes_about_a_snapshot_that_are_damaged_are_made_again(hub: Hub, machine: Machine) -> None:
    directory = snapshot(download(machine))
    (note,) = (machine.cache / "verified").glob("**/*.json")
    (ref,) = (machine.cache / "huggingface" / "hub").glob("models--*/refs/main")
    for damage in ("[]", '{"config.json": 7}', ""):
        note.write_text(damage)
        ref.write_text("")
        assert snapshot(download(machine)) == directory


def test_a_truncated_file_is_noticed_and_fetched_again(hub: Hub, machine: Machine) -> None:
    hub.faults.append(Fault(f"GET /store/{WEIGHTS}", "short"))
    snapshot(quick(machine))
    assert len(hub.downloads(WEIGHTS)) >= 2


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_a_file_with_other_bytes_is_noticed_and_fetched_again(hub: Hub, machine: Machine, name: str) -> None:
    hub.faults.append(Fault(f"GET .*{name}", "corrupt"))
    answer = quick(machine)
    assert sha256(snapshot(answer) / name) == sha256(hub.directory / name)
    assert f"{name} arrived damaged: downloading again" in answer.stderr


def test_a_mirror_that_always_sends_other_bytes_is_refused(hub: Hub, machine: Machine) -> None:
    hub.faults.append(Fault(f"GET /store/{WEIGHTS}", "corrupt", times=99))
    answer = quick(machine)
    assert answer.returncode == 4
    assert f"{WEIGHTS} of {REPO} arrived damaged twice" in answer.stderr


def test_a_token_is_sent_and_its_absence_is_explained(hub: Hub, machine: Machine) -> None:
    hub.token = "hf_secret"
    refused = download(machine)
    assert refused.returncode == 4
    assert "set HF_TOKEN" in refused.stderr
    machine.set(HF_TOKEN="hf_secret")
    snapshot(download(machine))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("/api/models", "status", 99, 404, {"X-Error-Code": "RepoNotFound"}), "does not exist"),
        (Fault("/api/models", "status", 99, 403, {"X-Error-Code": "GatedRepo"}), "is gated: accept its terms"),
        (Fault("/api/models", "status", 99, 403), "refuses access"),
        (Fault("GET /store", "status", 99, 403), "refuses access"),
    ],
    ids=["404", "gated", "403", "403 of the store"],
)
def test_an_answer_that_will_not_change_ends_at_once(hub: Hub, machine: Machine, fault: Fault, message: str) -> None:
    hub.faults.append(fault)
    answer = download(machine)
    assert answer.returncode == 4, answer.stderr
    assert message in answer.stderr
    assert "trying again" not in answer.stderr


def test_an_empty_revision_is_named(hub: Hub, machine: Machine) -> None:
    answer = download(machine, "--revision", " ")
    assert answer.returncode == 4
    assert "the revision of " in answer.stderr
    assert "is empty" in answer.stderr


def test_an_unknown_revision_is_refused(hub: Hub, machine: Machine) -> None:
    answer = download(machine, "--revision", "v9")
    assert answer.returncode == 4
    assert "no revision 'v9'" in answer.stderr


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("match", ["/revision/", "GET /store"])
def test_a_busy_or_unwell_hub_is_asked_again(hub: Hub, machine: Machine, status: int, match: str) -> None:
    hub.faults.append(Fault(match, "status", 1, status, {"Retry-After": "0"}))
    snapshot(quick(machine))


def test_a_hub_that_stays_unwell_ends_with_the_reason(hub: Hub, machine: Machine) -> None:
    hub.faults.append(Fault("/revision/", "status", 99, 503))
    answer = quick(machine)
    assert answer.returncode == 4
    assert "could not be downloaded" in answer.stderr
    assert "503" in answer.stderr


def test_a_pinned_commit_is_what_is_fetched(hub: Hub, machine: Machine) -> None:
    assert snapshot(download(machine, "--revision", COMMIT)).name == COMMIT
    hub.requests.clear()
    assert snapshot(download(machine, "--revision", COMMIT)).name == COMMIT
    assert hub.requests == []  # a commit never changes


def test_without_a_network_the_copy_in_the_cache_is_used(hub: Hub, machine: Machine) -> None:
    directory = snapshot(download(machine))
    hub.requests.clear()
    machine.set(HF_HUB_OFFLINE="1")
    assert snapshot(download(machine)) == directory
    assert hub.requests == []
    machine.set(HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    answer = quick(machine)
    assert snapshot(answer) == directory
    assert f"using the copy of commit {COMMIT}" in answer.stderr


def test_offline_with_an_empty_cache_says_how_to_fill_it(hub: Hub, machine: Machine) -> None:
    machine.set(HF_HUB_OFFLINE="1")
    answer = download(machine)
    assert answer.returncode == 4
    assert "--from DIR" in answer.stderr
    assert hub.requests == []


@pytest.mark.parametrize(("name", "value"), [("HF_ENDPOINT", "nonsense"), ("HF_HUB_OFFLINE", "maybe")])
def test_a_variable_of_the_hub_that_means_nothing_ends_at_once(
    hub: Hub, machine: Machine, name: str, value: str
) -> None:
    machine.set(**{name: value})
    answer = download(machine)
    assert answer.returncode == 2
    assert f"{name} is '{value}'" in answer.stderr
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HF_ENDPOINT", "http://me:secret@127.0.0.1:9", "HF_ENDPOINT has a password in it"),
        ("HF_TOKEN", "hf_ключ", "HF_TOKEN has letters that no token has"),
    ],
)
def test_a_secret_that_is_no_good_is_refused_and_not_shown(
    hub: Hub, machine: Machine, name: str, value: str, said: str
) -> None:
    machine.set(**{name: value})
    answer = download(machine)
    assert (answer.returncode, hub.requests) == (2, [])
    assert said in answer.stderr
    assert "secret" not in answer.stderr + answer.stdout
    assert "ключ" not in answer.stderr


def test_a_login_page_is_told_from_a_hub(hub: Hub, machine: Machine) -> None:
    hub.faults.append(Fault("/api/models", "status", 99, 200))
    answer = download(machine)
    assert answer.returncode == 4
    assert f"{hub.url} does not answer as a hub does (KeyError('id')): check HF_ENDPOINT" in answer.stderr


def test_a_proxy_that_is_not_there_is_named(hub: Hub, machine: Machine) -> None:
    machine.set(HTTP_PROXY="http://127.0.0.1:9", NO_PROXY="")
    answer = quick(machine)
    assert answer.returncode == 4
    assert "check the network and HTTP_PROXY" in answer.stderr
    machine.set(HTTP_PROXY="", ALL_PROXY="socks5://127.0.0.1:9")
    answer = quick(machine)
    assert answer.returncode == 4
    assert "the proxy that ALL_PROXY names cannot be used" in answer.stderr


def test_a_cache_that_is_a_file_is_no_cache(hub: Hub, machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = download(machine, "--cache", str(tmp_path / "file"))
    assert answer.returncode == 9
    assert "File exists; choose another place" in answer.stderr


def test_two_processes_on_one_cache_download_once(hub: Hub, machine: Machine) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: machine.run("download-to-cache", "-p", PROFILE), range(2))
    assert snapshot(first) == snapshot(second)
    assert len(hub.downloads(WEIGHTS)) == 1


def test_a_full_disk_is_noticed_before_the_first_byte(hub: Hub, machine: Machine, small_disk: Path) -> None:
    fill(small_disk, 100_000)
    answer = download(machine, "--cache", str(small_disk))
    assert answer.returncode == 7
    assert re.search(r"needs \d+\.\d [kM]B, \S+ has \d+\.\d kB free: make room", answer.stderr)
    assert not hub.downloads(WEIGHTS)


def test_an_air_gapped_machine_imports_a_directory(machine: Machine, tiny_checkpoint: Path) -> None:
    directory = snapshot(download(machine, "--from", str(tiny_checkpoint)))
    assert directory.is_relative_to(machine.cache)
    machine.set(HF_HUB_OFFLINE="1")
    assert snapshot(download(machine)) == directory


@pytest.mark.parametrize("damage", ["other bytes", "gone"])
def test_a_copy_that_was_damaged_is_made_again(machine: Machine, tiny_checkpoint: Path, damage: str) -> None:
    cache, content = Cache(machine.cache), (tiny_checkpoint / WEIGHTS).read_bytes()
    first = import_weights(tiny_checkpoint, REPO, cache, lambda _: None)
    if damage == "gone":
        (first.directory / WEIGHTS).unlink()
    else:
        (first.directory / WEIGHTS).write_bytes(content[:-7] + b"damaged")
    again = import_weights(tiny_checkpoint, REPO, cache, lambda _: None)
    assert again == first
    assert (again.directory / WEIGHTS).read_bytes() == content


def test_an_imported_hub_snapshot_keeps_its_commit(machine: Machine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "snapshots" / COMMIT
    shutil.copytree(tiny_checkpoint, source)
    assert import_weights(source, REPO, Cache(machine.cache), lambda _: None).commit == COMMIT


def test_a_directory_that_is_no_checkpoint_is_not_imported(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"lacks config\.json"):
        import_weights(tmp_path / "empty", REPO, Cache(machine.cache), lambda _: None)
    assert not machine.cache.exists()


def test_verified_files_are_not_hashed_again_until_they_change(
    machine: Machine, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(machine.cache)
    first = import_weights(tiny_checkpoint, REPO, cache, lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch_weights(REPO, "main", cache, lambda _: None).hashes == first.hashes
    (first.directory / WEIGHTS).touch()
    assert WEIGHTS not in fetch_weights(REPO, "main", cache, lambda _: None).hashes


def test_a_cache_without_room_refuses_an_import(tiny_checkpoint: Path, small_disk: Path) -> None:
    fill(small_disk, 100_000)
    with pytest.raises(CacheError, match="make room"):
        import_weights(tiny_checkpoint, REPO, Cache(small_disk), lambda _: None)


def test_shards_are_wanted_and_other_formats_are_not() -> None:
    wanted = ["model-00001-of-00014.safetensors", "model.safetensors.index.json", "LICENSE"]
    unwanted = ["model.onnx", "pytorch_model.bin", "consolidated.safetensors", "merges.txt"]
    assert all(any(fnmatch(name, pattern) for pattern in WANTED) for name in wanted)
    assert not any(fnmatch(name, pattern) for name in unwanted for pattern in WANTED)


def test_a_filled_cache_may_be_read_only_where_the_hub_answers(hub: Hub, machine: Machine, small_disk: Path) -> None:
    first = download(machine, "--cache", str(small_disk / "cache"))
    make_read_only(small_disk)
    again = download(machine, "--cache", str(small_disk / "cache"))
    assert snapshot(again) == snapshot(first)


@pytest.mark.parametrize("sha256", ["../../../../escape", "/escape", "x" * 64])
def test_a_hub_that_names_what_lies_elsewhere_is_not_believed(
    hub: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch, sha256: str
) -> None:
    entry = Hub.entry
    monkeypatch.setattr(Hub, "entry", lambda self, name: {**entry(self, name), "sha256": sha256})
    answer = download(machine)
    assert answer.returncode == 4
    assert "does not answer as a hub does" in answer.stderr
    assert not [*machine.home.rglob("*escape*")]


@pytest.mark.parametrize("value", ["0", "-1", "soon", "\xb2", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_hub_may_ask_to_wait_in_any_words(hub: Hub, machine: Machine, value: str) -> None:
    hub.faults.append(Fault("GET /api/models", "status", status=429, headers={"Retry-After": value}))
    snapshot(quick(machine))


@pytest.mark.parametrize("revision", ["v" * 300, "..", "../../../../etc/passwd"])
def test_a_revision_that_is_no_files_name_is_asked_of_the_hub(hub: Hub, machine: Machine, revision: str) -> None:
    answer = download(machine, "--revision", revision)
    assert answer.returncode == 4
    assert "Traceback" not in answer.stderr
