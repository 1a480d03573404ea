"""The list of what is in an image."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "requirements" / "sbom.py"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "test-image"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


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
