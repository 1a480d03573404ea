"""The files around the images: linted, valid, and in step with each other."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

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


@pytest.mark.parametrize("profiles", [[], ["cpu"], ["monitoring"], ["cpu", "monitoring"]])
def test_compose_accepts_every_profile(profiles: list[str]) -> None:
    selected = [part for profile in profiles for part in ("--profile", profile)]
    succeeds("docker-compose", "--file", "compose.yaml", *selected, "config", "--quiet")


def test_compose_builds_targets_that_exist() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    targets = {service["build"]["target"] for service in services.values() if "build" in service}
    stages = set(re.findall(r"^FROM .+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert targets == {"runtime", "runtime-cpu"}
    assert targets < stages


def test_prometheus_accepts_its_configuration() -> None:
    succeeds("promtool", "check", "config", "deploy/monitoring/prometheus.yml")


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    succeeds("promtool", "test", "rules", "tests/images/alerts.yaml")
    alerts = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    tests = yaml.safe_load((ROOT / "tests/images/alerts.yaml").read_text())["tests"]
    assert {each["alertname"] for test in tests for each in test["alert_rule_test"] if each["exp_alerts"]} == alerts


def test_prometheus_understands_every_panel_of_the_dashboard(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [{"record": f"panel:{i}", "expr": each.replace("$__rate_interval", "1m")} for i, each in enumerate(asked)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    succeeds("promtool", "check", "rules", tmp_path / "rules.yaml")


def test_compose_gives_prometheus_the_rules() -> None:
    volumes = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["prometheus"]["volumes"]
    (rules,) = [volume for volume in volumes if volume.endswith(":/etc/prometheus/rules.yaml:ro")]
    assert ROOT / rules.split(":")[0] == RULES


def test_the_lock_pins_what_the_project_asks_for_and_what_it_is_tested_with() -> None:
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements/serve.txt").read_text(), re.MULTILINE))
    tested = dict(re.findall(r"^(\S+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    tested = {normal(name): version for name, version in tested.items()}
    assert {name: version.removesuffix("+cpu") for name, version in locked.items() if name in tested} == {
        name: version for name, version in tested.items() if name in locked
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for wanted in [*project["dependencies"], *extras["build"], *extras["serve"]]:
        name = normal(re.split(r"[\[<>= ]", wanted)[0])
        assert name in locked or name == "nimble-coder", f"run scripts/lock: {wanted} is not in requirements/serve.txt"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_locked_file_has_a_hash() -> None:
    for lock in ("serve.txt", "wheel.txt"):
        for entry in re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements" / lock).read_text()):
            assert "--hash=sha256:" in entry or entry.startswith("#"), entry


def test_the_scripts_are_executable() -> None:
    assert all(
        os.access(ROOT / path, os.X_OK)
        for path in ("scripts/lock", "scripts/audit", "scripts/test-images", "requirements/pip")
    )
