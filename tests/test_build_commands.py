"""The commands of the build stage: what they print, and that they need neither a GPU nor each other."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from build_engine.artifact import Artifact
from tests.standin.machine import A100, H100, Machine

SEVEN = "qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"


def test_profiles_are_listed_without_a_gpu_and_it_is_said(machine: Machine) -> None:
    answer = machine.call("list-model-profiles")
    assert answer.returncode == 0
    assert "no GPU: nvidia-smi lists no GPU" in answer.stdout
    assert "Compatible with system and runnable (25):" in answer.stdout
    assert "Incompatible with system (156):" in answer.stdout
    assert answer.stdout.endswith("Taken where none is chosen: demo\n")


def test_profiles_are_grouped_by_verdict_with_reason_and_remedy(machine: Machine) -> None:
    machine.gpus([*H100[:3], 23000])
    machine.tensorrt_llm("0.19.0")
    text = machine.call("list-model-profiles", "--model-name", "qwen2.5-coder-14b-instruct").stdout
    runnable, low, incompatible = (text.index(words) for words in ("runnable (1)", "low memory (3)", "Incompatible"))
    assert runnable < text.index("14b-instruct-h100-fp8") < low < text.index("14b-instruct-h100-bf16") < incompatible
    assert "needs 33.7 GiB per GPU, 22.5 GiB of 79.6 GiB are free: end what else uses the GPU" in text
    assert "(W,N,G) for 14b on h100, by requests at once: (" in text
    assert "(a model, not measured: docs/cost-model.md)" in text


def test_the_json_listing_has_every_field_a_script_needs(machine: Machine) -> None:
    machine.gpus(H100)
    machine.tensorrt_llm("0.19.0")
    listing = json.loads(machine.call("list-model-profiles", "--format", "json").stdout)
    assert listing["selected"] == SEVEN
    assert listing["system"]["gpus"][0]["product"] == "NVIDIA H100 80GB HBM3"
    entry = next(profile for profile in listing["profiles"] if profile["name"] == SEVEN)
    assert entry["status"] == "runnable"
    assert entry["max_draft_len"] == 111
    assert entry["license"] == "Apache-2.0"
    assert entry["memory"]["required"] > entry["memory"]["weights"] > 15e9
    assert len(entry["id"]) == 64


@pytest.mark.parametrize("arguments", [["--format", "yaml"], ["--model-name", "gpt-2"]])
def test_a_listing_that_makes_no_sense_is_refused(machine: Machine, arguments: list[str]) -> None:
    assert machine.call("list-model-profiles", *arguments).returncode == 2


def test_the_profile_comes_from_the_environment(machine: Machine) -> None:
    machine.gpus(A100)
    machine.tensorrt_llm("0.19.0")
    by_itself = machine.call("build-engine", "--dry-run").stdout
    assert by_itself.startswith("# qwen2.5-coder-7b-instruct-a100-bf16-tp1-w7n7g7\n")
    machine.set(NIM_MODEL_PROFILE=SEVEN)
    assert machine.call("build-engine", "--dry-run").stdout.startswith(f"# {SEVEN}\n")
    machine.set(NIM_MODEL_PROFILE="default", NIM_MODEL_NAME="qwen2.5-coder-3b")
    assert machine.call("build-engine", "--dry-run").stdout.startswith("# qwen2.5-coder-3b-a100-")


def test_limits_on_the_command_line_change_the_plan(machine: Machine) -> None:
    script = machine.call(
        "build-engine", "-p", SEVEN, "--dry-run", "--lookahead", "4,3,4", "--max-batch-size", "2"
    ).stdout
    assert "--max_batch_size 2 " in script
    assert "--max_draft_len 15" in script
    assert f"# {SEVEN.replace('w8n8g8', 'w4n3g4')}-custom-" in script


def test_build_list_verify_prune_and_store(machine: Machine, tiny_checkpoint: Path) -> None:
    demo = ("--from", tiny_checkpoint, "--skip-verify")
    built = machine.call("build-engine", "-p", "demo", *demo)
    assert built.returncode == 0, built.stderr
    (machine.cache / "artifacts" / ".demo-0.building").mkdir()
    listed = machine.call("cache", "list", "--format", "json")
    assert {entry["kind"] for entry in json.loads(listed.stdout)} == {"artifact", "leftover"}
    whole = "1 of 1 artefacts are as they were published\n"
    assert machine.call("cache", "verify").stdout == f"ok       {built.stdout}{whole}"
    assert ".demo-0.building" in machine.call("cache", "prune", "--dry-run").stdout
    assert machine.call("cache", "prune").returncode == 0
    assert machine.leftovers == []
    store = machine.call("create-model-store", "-p", "demo", "-m", machine.home / "store", *demo)
    assert store.returncode == 0, store.stderr
    assert store.stdout.strip() == str(machine.home / "store" / "model_repository")
    weights = machine.artifacts[0] / "engine" / "rank0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    damaged = machine.call("cache", "verify")
    assert damaged.returncode == 8
    assert "changed after it was built" in damaged.stderr
    assert damaged.stdout.endswith("\n0 of 1 artefacts are as they were published\n")


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"signature": "x"},
        {"profile": {"page_size": 64}},
        {"profile": {"precision": "fp4"}},
        {"profile": {"engine": "other"}},
        {"profile": {"lookahead": {"window_size": 4}}},
    ],
    ids=str,
)
def test_what_another_version_has_built_is_no_damage(
    machine: Machine, tiny_checkpoint: Path, change: dict[str, Any]
) -> None:
    built = machine.call("build-engine", "-p", "demo", "--from", tiny_checkpoint, "--skip-verify")
    manifest = machine.artifacts[0] / "manifest.json"
    content = json.loads(manifest.read_text())
    profile = {**content["profile"], **change.get("profile", {})}
    manifest.write_text(json.dumps({**content, **change, "profile": profile}))
    verified = machine.call("cache", "verify")
    assert verified.returncode == 0
    assert verified.stdout == f"unknown  {built.stdout}0 of 1 artefacts are as they were published\n"
    assert "build again" in verified.stderr
    assert machine.call("cache", "prune", "--superseded").returncode == 0
    assert len(machine.artifacts) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"profile": ["demo"]},
        {"verification": ["passed"]},
        {"built_at": None},
        {"built_at": "2026-01-01T00:00:00"},
        {"source": "the hub"},
        {"files": [{"path": 5, "bytes": 1, "sha256": ""}]},
        {"files": ["engine"]},
    ],
    ids=str,
)
def test_a_manifest_with_values_of_other_types_is_damaged(
    machine: Machine, tiny_checkpoint: Path, change: dict[str, Any]
) -> None:
    machine.call("build-engine", "-p", "demo", "--from", tiny_checkpoint, "--skip-verify")
    manifest = machine.artifacts[0] / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    assert machine.call("cache", "list").returncode == 0
    verified = machine.call("cache", "verify")
    assert (verified.returncode, verified.stdout.startswith("damaged  ")) == (8, True), verified.stderr
    again = machine.call("build-engine", "-p", "demo", "--from", tiny_checkpoint, "--skip-verify")
    assert (again.returncode, machine.call("cache", "verify").returncode) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["build-engine", "-p", "demo", "--revision", "v1", "--skip-verify"], "no effect on the embedded model"),
        (["build-engine", "-p", "demo", "--from", "TINY", "--revision", "v1", "--skip-verify"], "no effect on /"),
        (["build-engine", "-p", "demo", "--from", "TINY", "--workers", "2", "--skip-verify"], "--workers 2 has no"),
        (["download-to-cache", "--from", "TINY", "--revision", "v1"], "--revision v1 is for the hub"),
    ],
)
def test_an_option_without_effect_is_named(
    machine: Machine, tiny_checkpoint: Path, arguments: list[str], told: str
) -> None:
    answer = machine.call(*(tiny_checkpoint if argument == "TINY" else argument for argument in arguments))
    assert answer.returncode == 0, answer.stderr
    assert told in answer.stderr


def test_two_models_at_once_are_refused(machine: Machine, tiny_checkpoint: Path) -> None:
    answer = machine.call("build-engine", "--from", tiny_checkpoint, "--model-name", "/other")
    assert (answer.returncode, "are two models" in answer.stderr) == (2, True)
    answer = machine.call("download-to-cache", "-p", "demo", "--from", tiny_checkpoint)
    assert (answer.returncode, "leave out --from" in answer.stderr) == (2, True)


def test_a_name_too_long_for_a_directory_is_refused(machine: Machine, tiny_checkpoint: Path) -> None:
    long = shutil.copytree(tiny_checkpoint, machine.home / ("m" * 200))
    answer = machine.call("build-engine", "--model", long, "--skip-verify")
    assert (answer.returncode, "too long by 40 letters" in answer.stderr) == (4, True)
    assert machine.call("build-engine", "--model", long, "-p", "demo", "--skip-verify").returncode == 0
    allowed = long.rename(long.with_name("m" * 160))
    answer = machine.call("build-engine", "--model", allowed, "--max-batch-size", "1", "--skip-verify")
    assert answer.returncode == 0, answer.stderr


def test_a_cache_without_artefacts_says_so(machine: Machine) -> None:
    machine.cache.mkdir()
    assert machine.call("cache", "verify").stdout == "there are no artefacts\n"


@pytest.mark.parametrize(
    "options",
    [
        ["-p", "demo", "--lookahead", "99,99,99", "--max-batch-size", "2"],
        ["-p", "demo", "--precision", "bf16", "--int8-kv-cache", "--max-seq-len", "400", "--max-num-tokens", "64"],
        ["-p", "qwen2.5-coder-0.5b-torch-bf16-w1n4g1", "--max-input-len", "300", "--revision", "v1"],
    ],
)
def test_the_dry_run_of_a_portable_engine_prints_a_command_that_builds_the_same(
    machine: Machine, options: list[str]
) -> None:
    planned = machine.call("build-engine", "--dry-run", *options).stdout
    command = planned.splitlines()[-1].partition("  #")[0].split()[1:]
    assert machine.call(*command, "--dry-run").stdout == planned


def test_the_dry_run_downloads_by_a_name_that_is_known(machine: Machine) -> None:
    script = machine.call("build-engine", "-p", SEVEN, "--dry-run", "--max-batch-size", "3").stdout
    assert f"$(nimble-coder download-to-cache -p {SEVEN})" in script


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["-p", "demo", "--companion"], 2, "it needs no companion"),
        (["-p", "demo", "--max-seq-len", "999999"], 2, "exceeds the model's 8192 positions"),
        (["-p", SEVEN, "--max-seq-len", "32768"], 2, "the 111 draft tokens behind it exceed"),
        (["-p", "demo", "--model", "/nowhere"], 4, "/nowhere does not exist"),
        (["-p", "demo", "--fp8-kv-cache"], 2, "an fp8 KV cache is for TensorRT engines"),
        (["-p", "demo", "--calibration", "code"], 2, "leave the calibration out"),
        (["-p", SEVEN, "--calibration", "code"], 2, "leave the calibration out"),
    ],
)
def test_the_dry_run_refuses_what_the_build_would(machine: Machine, options: list[str], code: int, reason: str) -> None:
    answer = machine.call("build-engine", "--dry-run", *options)
    assert (answer.returncode, answer.stdout) == (code, "")
    assert reason in answer.stderr


def test_a_model_in_the_environment_is_for_when_no_profile_is_chosen(machine: Machine) -> None:
    machine.set(NIM_MODEL_NAME="qwen2.5-coder-3b")
    assert machine.call("build-engine", "-p", "demo", "--dry-run").returncode == 0


def test_a_store_is_refused_before_anything_is_built(machine: Machine) -> None:
    (machine.home / "store" / "old").mkdir(parents=True)
    answer = machine.call("create-model-store", "-p", "demo", "-m", machine.home / "store")
    assert answer.returncode == 2
    assert "is not empty" in answer.stderr
    assert not machine.cache.exists()


def test_a_store_for_several_machines_is_refused_before_anything_is_built(h100: Machine) -> None:
    answer = h100.call("create-model-store", "-p", SEVEN, "-m", h100.home / "store", "--gpus-per-node", "1")
    assert answer.returncode == 2
    assert "the 1 ranks of" in answer.stderr
    assert not (h100.home / "store").exists()


def test_a_store_may_hold_a_companion(h100: Machine, tiny_checkpoint: Path) -> None:
    store = h100.home / "store"
    demanded = (
        "create-model-store",
        "-p",
        SEVEN,
        "-m",
        store,
        "--from",
        tiny_checkpoint,
        "--skip-verify",
        "--companion",
    )
    answer = h100.call(*demanded)
    assert answer.returncode == 0, answer.stderr
    assert (store / "plain_engine" / "rank0.engine").is_file()
    assert (store / "model_repository" / "tensorrt_llm_plain" / "config.pbtxt").is_file()


def test_a_clients_installation_can_show_the_help_of_every_command(machine: Machine) -> None:
    """It has neither PyTorch nor the hub's library."""
    code = """
import sys
sys.modules.update(dict.fromkeys(["torch", "huggingface_hub", "jinja2", "safetensors"]))
from nimble_coder.commands.application import app
for command in sys.argv[1:]:
    try:
        app([command, "--help"])
    except SystemExit as end:
        assert not end.code, command
"""
    commands = "build-engine", "download-to-cache", "create-model-store", "list-model-profiles", "cache", "complete"
    answer = subprocess.run([sys.executable, "-c", code, *commands], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("Usage:") == len(commands)


def test_what_is_built_of_a_directory_is_called_after_it(machine: Machine, tiny_checkpoint: Path) -> None:
    """Not after the demonstration model, whose profile a machine without a GPU takes where nothing is given."""
    answer = machine.call("build-engine", "--model", tiny_checkpoint, "--lookahead", "2,3,2", "--skip-verify")
    assert answer.returncode == 0, answer.stderr
    artifact = Artifact.open(Path(answer.stdout.strip()))
    assert artifact.directory.name.startswith("tiny-torch-bf16-w2n3g2-")
    assert artifact.manifest.profile.served_names[0] == "tiny"
    script = machine.call("build-engine", "--model", tiny_checkpoint, "--dry-run").stdout
    assert f"build-engine --model {tiny_checkpoint}" in script
    assert machine.call("build-engine", "--model", "/nowhere", "--dry-run").returncode == 4
