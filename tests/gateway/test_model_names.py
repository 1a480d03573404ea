"""A request names a model that is served, or any, where a setting says so."""

from collections.abc import Iterator

import httpx
import pytest

from build_engine.artifact import Artifact
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.triton import Addresses
from tests.gateway.completing import BODIES


@pytest.fixture(scope="module")
def lenient(artifact: Artifact, gateway: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A gateway that accepts any name, over the shared Triton."""
    log, settings = tmp_path_factory.mktemp("lenient") / "log", {"NIMBLE_ACCEPT_ANY_MODEL_NAME": "true"}
    addresses = Addresses.free()
    with GatewayProcesses(artifact.directory, gateway.triton.addresses, addresses, log=log, settings=settings) as g:
        g.wait_ready()
        with httpx.Client(base_url=addresses.http, timeout=60) as client:
            yield client


@pytest.mark.parametrize("path", BODIES)
def test_the_refusal_of_a_name_lists_those_that_are_served(http: httpx.Client, path: str) -> None:
    refused = http.post(path, json={**BODIES[path], "model": "your-model-here"})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (404, "model_not_found")
    names = [model["id"] for model in http.get("/v1/models").json()["data"]]
    assert all(repr(name) in error["message"] for name in names)


@pytest.mark.parametrize("path", BODIES)
def test_any_name_is_answered_by_the_served_model_where_it_is_to(lenient: httpx.Client, path: str) -> None:
    served = lenient.get("/v1/models").json()["data"]
    answer = lenient.post(path, json={**BODIES[path], "model": "your-model-here", "max_tokens": 1})
    assert (answer.status_code, answer.json()["model"]) == (200, served[0]["id"])
    assert (
        lenient.post(path, json={**BODIES[path], "model": served[-1]["id"], "max_tokens": 1}).json()["model"]
        == (served[-1]["id"])
    )
    assert lenient.get("/v1/models/your-model-here").json()["id"] == served[0]["id"]
    assert "your-model-here" not in {model["id"] for model in served}
