"""The chart as a whole: Helm and Kubernetes take it, in every version, whatever is chosen."""

import json
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import helm_python as helm
import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from tests.helm.chart import (
    BUILT,
    CHART,
    CPU,
    CUDA,
    EVERYTHING,
    KEDA,
    MTLS,
    NAME,
    NAMESPACE,
    NODES,
    RELEASE,
    ROOT,
    Values,
    merged,
    render,
)
from tests.helm.custom import check_custom

CHOICES: dict[str, Values] = {
    "default": {},
    "cpu": CPU,
    "cuda": CUDA,
    "everything": merged(EVERYTHING, BUILT),
    "mtls": merged(EVERYTHING, MTLS),
    "keda": merged(EVERYTHING, KEDA),
    "nodes": NODES,
    "nodes with everything": merged(EVERYTHING, NODES, {"autoscaling": {"enabled": False}, "replicas": 2}),
}
VERSIONS = ("1.25", "1.29", "1.32", "1.33", "1.37")
CUSTOM = {"HTTPRoute", "GRPCRoute", "ServiceMonitor", "PrometheusRule", "ScaledObject", "LeaderWorkerSet"}
"""Kinds that are not Kubernetes' own, so that its schemas do not have them."""


@pytest.mark.parametrize("choice", CHOICES)
def test_helm_finds_nothing_to_complain_about(choice: str) -> None:
    found = helm.lint(CHART, values=CHOICES[choice])
    assert (found["errors"], [m["error"] for m in found["messages"]]) == ([], ["icon is recommended"])


@pytest.fixture(scope="module")
def schemas() -> Iterator[None]:
    """The validator reads a version's definitions anew for every document, which takes longer than all else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(version: str, schemas: None) -> None:
    checked = set()
    for values in CHOICES.values():
        for document in render(values).documents:
            if document["kind"] not in CUSTOM:
                assert kubernetes_validate.validate(document, version, strict=True) == version
            checked.add(document["kind"])
    assert checked > CUSTOM


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field_of_the_pods_of_a_group(version: str, schemas: None) -> None:
    for values in (CHOICES["nodes"], CHOICES["nodes with everything"]):
        rendered = render(values)
        for template in (rendered.template, *rendered.workers):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "coder"}, "template": template}
            assert kubernetes_validate.validate(pod, version, strict=True) == version


CUSTOM_OBJECTS = [
    ("keda", "scaledobjects", ""),
    ("nodes", "leaderworkersets", "-group"),
    ("nodes with everything", "leaderworkersets", "-group"),
]


@pytest.mark.parametrize(("choice", "definition", "suffix"), CUSTOM_OBJECTS)
def test_the_definitions_of_custom_resources_know_every_field(choice: str, definition: str, suffix: str) -> None:
    (document,) = [
        each
        for each in render(CHOICES[choice]).documents
        if each["kind"].lower() + "s" == definition and each["metadata"]["name"] == NAME + suffix
    ]
    check_custom(document, definition)
    document["spec"]["size"] = 2
    with pytest.raises(jsonschema.ValidationError, match=r"'size' was unexpected"):
        check_custom(document, definition)


def test_the_validation_sees_an_unknown_field() -> None:
    document = render().one("Deployment")
    document["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError, match="enableServiceLink"):
        kubernetes_validate.validate(document, "1.37", strict=True)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_object_is_found_by_its_release(choice: str) -> None:
    names = set()
    for document in render(CHOICES[choice]).documents:
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "nimble-coder"
        assert labels["app.kubernetes.io/instance"] == RELEASE
        names.add((document["kind"], document["metadata"]["name"]))
    assert len(names) == len(render(CHOICES[choice]).documents)


@pytest.mark.parametrize("choice", CHOICES)
def test_server_side_apply_gets_protocols_and_text(choice: str) -> None:
    """Without `protocol` it cannot tell two ports of one number apart, and it refuses quantities that are numbers."""
    for document in render(CHOICES[choice]).documents:
        for port in [port for ports in found(document, "ports") for port in ports if "name" in port]:
            assert port["protocol"] == "TCP", port
        for kind in ("requests", "limits"):
            for quantities in found(document, kind):
                assert all(isinstance(quantity, str) for quantity in quantities.values()), quantities


def found(node: object, key: str) -> list[Any]:
    """Every value of the key, at any depth."""
    if isinstance(node, list):
        return [each for item in node for each in found(item, key)]
    if not isinstance(node, dict):
        return []
    here = [node[key]] if key in node else []
    return here + [each for value in node.values() for each in found(value, key)]


def test_a_package_is_the_directory(tmp_path: Path) -> None:
    archive = helm.package(CHART, destination=tmp_path)
    with helm.Chart.load(archive) as packed, helm.Chart.load(CHART) as chart:
        shown = [each.render(EVERYTHING, name=RELEASE, namespace=NAMESPACE) for each in (packed, chart)]
        assert shown[0] == shown[1]
        assert {"values-cpu.yaml", "values-cuda.yaml"} <= {file["name"] for file in packed.files}


def test_chart_and_product_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == metadata.version("nimble-coder")


def test_the_rules_and_the_dashboard_are_the_files() -> None:
    rendered = render(EVERYTHING)
    assert rendered.one("PrometheusRule")["spec"] == yaml.safe_load((CHART / "files/rules.yaml").read_text())
    dashboard = rendered.one("ConfigMap", "-dashboard")["data"]["nimble-coder.json"]
    assert json.loads(dashboard) == json.loads((CHART / "files/dashboard.json").read_text())
    assert (ROOT / "deploy/monitoring/rules.yaml").resolve() == CHART / "files/rules.yaml"


def test_every_panel_shows_the_releases_that_are_chosen() -> None:
    for file in ("dashboard", "dashboard-keys"):
        panels = json.loads((CHART / f"files/{file}.json").read_text())["panels"]
        for expression in [target["expr"] for panel in panels for target in panel.get("targets", [])]:
            chosen = 'job="nimble-coder", namespace=~"$namespace", service=~"$service"'
            assert expression.count("{") == expression.count(chosen), expression


def test_a_chart_above_it_may_have_global_values() -> None:
    assert render({"global": {"region": "here"}}, EVERYTHING).files == render(EVERYTHING).files
