"""The files around the images: linted, valid, and in step with each other."""

import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from build_engine.versions import CONTAINER
from tests.images.bases import ROOT

RULES, DASHBOARD = (ROOT / "deploy/helm/nimble-coder/files" / name for name in ("rules.yaml", "dashboard.json"))
HADOLINT = Path(sys.executable).with_name("hadolint")


def succeeds(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfiles_have_no_findings() -> None:
    succeeds(HADOLINT, "--failure-threshold", "style", "Dockerfile", "tests/images/tritonserver.Dockerfile")


def test_the_base_image_is_the_version_tables() -> None:
    named = re.search(r"^ARG BASE_IMAGE=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert named is not None
    assert named[1] == CONTAINER


@pytest.mark.parametrize("profiles", [[], ["cpu"], ["cuda"], ["monitoring"], ["cpu", "monitoring"]])
def test_compose_accepts_every_profile(profiles: list[str]) -> None:
    selected = [part for profile in profiles for part in ("--profile", profile)]
    succeeds("docker-compose", "--file", "compose.yaml", *selected, "config", "--quiet")


def test_compose_takes_the_secrets_of_the_page_as_files(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "container.md").read_text()
    (block,) = re.findall(r"  ```yaml\n(  # compose.override.*?)\n  ```", page, re.DOTALL)
    (tmp_path / "override.yaml").write_text(textwrap.dedent(block))
    command = ["docker-compose", "--file", "compose.yaml", "--file", str(tmp_path / "override.yaml"), "config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    service = yaml.safe_load(done.stdout)["services"]["nimble-coder"]
    files = {f"/run/secrets/{each['source'] if isinstance(each, dict) else each}" for each in service["secrets"]}
    assert {service["environment"][name] for name in ("NIMBLE_API_KEYS_FILE", "HF_TOKEN_PATH")} == files


def test_compose_builds_targets_that_exist() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    targets = {service["build"]["target"] for service in services.values() if "build" in service}
    stages = set(re.findall(r"^FROM .+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert targets == {"runtime", "runtime-cpu", "runtime-cuda"}
    assert targets < stages


def test_compose_gives_gpus_and_the_cache_to_the_services_that_need_them() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name, needed in {"nimble-coder": True, "cuda": True, "cpu": False}.items():
        devices = services[name].get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert [device["capabilities"] for device in devices] == ([["gpu"]] if needed else [])
        assert ("cache:/opt/nim/.cache" in services[name].get("volumes", [])) == needed
        assert ("NIM_MODEL_PROFILE" in services[name]["environment"]) == needed


def test_prometheus_accepts_its_configuration() -> None:
    succeeds("promtool", "check", "config", "deploy/monitoring/prometheus.yml")


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    succeeds("promtool", "test", "rules", "tests/images/alerts.yaml")
    alerts = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    tests = yaml.safe_load((ROOT / "tests/images/alerts.yaml").read_text())["tests"]
    assert {each["alertname"] for test in tests for each in test["alert_rule_test"] if each["exp_alerts"]} == alerts


def test_prometheus_understands_every_panel_of_the_dashboard(tmp_path: Path) -> None:
    files = (DASHBOARD, DASHBOARD.with_name("dashboard-keys.json"))
    panels = [panel for file in files for panel in json.loads(file.read_text())["panels"]]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    rules = [{"record": f"panel:{i}", "expr": each.replace("$__rate_interval", "1m")} for i, each in enumerate(asked)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    succeeds("promtool", "check", "rules", tmp_path / "rules.yaml")


def test_prometheus_scrapes_whichever_service_of_compose_runs() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    (job,) = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yml").read_text())["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert set(found["names"]) == {name for name, service in services.items() if "build" in service}


def test_compose_gives_prometheus_the_rules() -> None:
    volumes = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["prometheus"]["volumes"]
    (rules,) = [volume for volume in volumes if volume.endswith(":/etc/prometheus/rules.yaml:ro")]
    assert ROOT / rules.split(":")[0] == RULES


@pytest.mark.parametrize("lock", ["serve.txt", "cuda.txt"])
def test_the_lock_pins_what_the_project_asks_for_and_what_it_is_tested_with(lock: str) -> None:
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements" / lock).read_text(), re.MULTILINE))
    lines = re.findall(r"^\w.+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    tested = {normal(each.name): each.specifier for each in map(Requirement, lines)}
    assert {name: version for name, version in locked.items() if version not in tested.get(name, SpecifierSet())} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for wanted in [*project["dependencies"], *extras["build"], *extras["serve"], *extras["telemetry"]]:
        name = normal(re.split(r"[\[<>= ]", wanted)[0])
        assert name in locked or name == "nimble-coder", f"run scripts/lock: {wanted} is not in requirements/{lock}"


def test_the_cuda_lock_has_the_versions_that_were_run_on_a_gpu_and_the_other_has_no_cuda() -> None:
    serve, cuda = ((ROOT / "requirements" / f"{name}.txt").read_text() for name in ("serve", "cuda"))
    found = dict(re.findall(r"^(torch|cuda-toolkit|triton)==(\d+\.\d+\.\d+)", cuda, re.MULTILINE))
    ran = " ".join((ROOT / "docs" / "gpu-benchmarks.md").read_text().split())
    assert f"PyTorch {found['torch']} with CUDA {found['cuda-toolkit'].rpartition('.')[0]}" in ran
    assert f"Triton's language {found['triton']}" in ran
    assert not re.search(r"^(cuda-|nvidia-c|triton==)", serve, re.MULTILINE)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_locked_file_has_a_hash() -> None:
    for lock in ("serve.txt", "cuda.txt", "wheel.txt"):
        for entry in re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements" / lock).read_text()):
            assert "--hash=sha256:" in entry or entry.startswith("#"), entry


def test_the_scripts_are_executable() -> None:
    assert all(
        os.access(ROOT / path, os.X_OK)
        for path in ("scripts/lock", "scripts/audit", "scripts/test-images", "requirements/pip")
    )
