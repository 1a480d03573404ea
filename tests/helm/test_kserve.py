"""deploy/kserve: what Kubernetes knows of it is right, and it is the pod that the chart makes."""

from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from nimble_coder.settings.loading import load
from tests.helm.chart import ROOT, Document, render
from tests.helm.custom import check_custom

RUNTIME, SERVICE = yaml.safe_load_all((ROOT / "deploy" / "kserve" / "nimble-coder.yaml").read_text())
(CONTAINER,) = RUNTIME["spec"]["containers"]
PREDICTOR = SERVICE["spec"]["predictor"]


@pytest.mark.parametrize("version", ["1.25", "1.32", "1.37"])
def test_the_pod_is_one(version: str) -> None:
    """As KServe puts it together; of its own kinds Kubernetes has no schemas."""
    outer = {name: value for name, value in PREDICTOR.items() if name not in ("model", "minReplicas", "maxReplicas")}
    spec = {**outer, "containers": RUNTIME["spec"]["containers"], "volumes": RUNTIME["spec"]["volumes"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "coder"}, "spec": spec}
    assert kubernetes_validate.validate(pod, version, strict=True) == version


@pytest.mark.parametrize(("document", "definition"), [(RUNTIME, "servingruntimes"), (SERVICE, "inferenceservices")])
def test_kserve_knows_every_field(document: Document, definition: str) -> None:
    check_custom(document, definition)
    with pytest.raises(jsonschema.ValidationError, match="'copies' was unexpected"):
        check_custom({**document, "spec": {**document["spec"], "copies": 2}}, definition)


def test_it_is_the_pod_of_the_chart() -> None:
    chart: dict[str, Any] = render().container
    assert CONTAINER["image"] == chart["image"]
    assert CONTAINER["resources"] == chart["resources"]
    for name in ("readiness", "liveness", "startup"):
        assert CONTAINER[f"{name}Probe"]["httpGet"]["path"] == chart[f"{name}Probe"]["httpGet"]["path"]
    assert CONTAINER["securityContext"].items() >= chart["securityContext"].items()
    mounted = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounted == {"/tmp", "/dev/shm", "/etc/nimble-coder/keys"}  # noqa: S108 - the pod's
    assert PREDICTOR["terminationGracePeriodSeconds"] == render().pod["terminationGracePeriodSeconds"]


def test_its_variables_are_settings_that_the_chart_has_too() -> None:
    environment = {each["name"]: each["value"] for each in CONTAINER["env"]}
    found, chart = load({}, environment).settings, yaml.safe_load(render().settings)
    assert (found.build_on_start, str(found.api_keys_file)) == (False, chart["api_keys_file"])
    assert (found.jsonl_logging, found.metrics_on_http_port) == (chart["jsonl_logging"], chart["metrics_on_http_port"])


def test_the_service_is_of_the_runtime() -> None:
    model = PREDICTOR["model"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["modelFormat"]["name"] in [each["name"] for each in RUNTIME["spec"]["supportedModelFormats"]]
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
    assert CONTAINER["args"] == ["serve", "/mnt/models"]
