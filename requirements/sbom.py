"""What is in an image, as SPDX 2.3, with licences: Python distributions, Debian packages, and what neither knows of.

    python3 requirements/sbom.py NAME [MANIFEST] >sbom.spdx.json

MANIFEST is that of the engine that is in the image too. For the Dockerfile: only the standard library, with the Python
whose packages are meant. The format: https://spdx.github.io/spdx-spec/v2.3/
"""

import json
import os
import platform
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG, COPYRIGHTS = Path("/var/lib/dpkg/status"), Path("/usr/share/doc")
EXPRESSION = re.compile(r"^[A-Za-z0-9.+() -]+$")
Package = dict[str, Any]


NO_VERSION = ""
"""Of what is copied into the image later; its label says it."""


def package(kind: str, name: str, version: str, expression: str, told: str) -> Package:
    """`expression` is an SPDX licence expression, or empty; `told` is what the package itself says."""
    return {
        "SPDXID": f"SPDXRef-{kind}-{re.sub(r'[^A-Za-z0-9.-]', '-', name)}",
        "name": name,
        **({"versionInfo": version} if version else {}),
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": expression or "NOASSERTION",
        "licenseComments": told or "the package names no licence",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl(kind, name, version),
            }
        ],
    }


def purl(kind: str, name: str, version: str) -> str:
    """The package's URL (https://github.com/package-url/purl-spec)."""
    where = {"python": "pypi", "debian": "deb/debian", "other": "generic"}[kind]
    plain = re.sub(r"[-_.]+", "-", name).lower() if kind == "python" else name
    return f"pkg:{where}/{plain}" + (f"@{quote(version, safe='.+~')}" if version else "")


def of_python(found: Distribution) -> Package:
    """A distribution; its classifiers where it has no expression."""
    said = found.metadata
    expression = next(iter(said.get_all("License-Expression") or []), "")
    classifiers = [each.rpartition(" :: ")[2] for each in said.get_all("Classifier") or [] if "License ::" in each]
    told = expression or ", ".join(classifiers) or next(iter(said.get_all("License") or []), "").split("\n")[0][:200]
    return package("python", said["Name"], found.version, expression if EXPRESSION.match(expression) else "", told)


def of_debian(paragraph: str) -> Package | None:
    """An installed package; the licences' names as its copyright file has them."""
    fields = dict(re.findall(r"^(Package|Version|Status): (.+)$", paragraph, re.MULTILINE))
    if not fields.get("Status", "").endswith(" installed"):
        return None
    file = COPYRIGHTS / fields["Package"] / "copyright"
    text = file.read_text(errors="replace") if file.is_file() else ""
    names = sorted({each.strip() for each in re.findall(r"^License: *(\S.*)$", text, re.MULTILINE)})
    return package("debian", fields["Package"], fields["Version"], "", ", ".join(names) or f"see {file}")


def without_a_manager() -> list[Package]:
    """What neither pip nor Debian knows of: the base's Python may be compiled from its source."""
    data = "trained on Python's standard library, which is under the PSF License Agreement: see its card, README.md"
    return [
        package("other", "python", platform.python_version(), "PSF-2.0", "PSF-2.0"),
        package("other", "nimble-coder", NO_VERSION, "Apache-2.0", "Apache-2.0"),
        package("other", "nimble-coder-embedded-model", NO_VERSION, "Apache-2.0", f"Apache-2.0; {data}"),
    ]


def baked(manifest: Path) -> Package:
    """The weights in the image, under the licence of their model's card."""
    from build_engine.catalog import MODELS  # noqa: PLC0415 - the images' first layer has this file without it

    model = json.loads(manifest.read_text(encoding="utf-8"))["profile"]["model"]
    published = {each.repo: each.license for each in MODELS.values()}
    told = published.get(model, "as the checkpoint says, which was given by its path")
    return package("other", model, NO_VERSION, told if told == "Apache-2.0" else "", told)


def document(name: str, manifest: Path | None = None) -> dict[str, Any]:
    """The whole SPDX document; its time is SOURCE_DATE_EPOCH's where that is set."""
    own = {each.metadata["Name"].lower(): of_python(each) for each in distributions()}
    paragraphs = DPKG.read_text(errors="replace").split("\n\n") if DPKG.is_file() else []
    weights = [baked(manifest)] if manifest else []
    packages = [*without_a_manager(), *weights, *own.values(), *(each for each in map(of_debian, paragraphs) if each)]
    packages.sort(key=lambda each: str(each["SPDXID"]))
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    made = datetime.fromtimestamp(int(seconds), UTC) if seconds else datetime.now(UTC)
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://nimble-coder.invalid/spdx/{name}/{made:%Y%m%dT%H%M%SZ}",
        "creationInfo": {"created": f"{made:%Y-%m-%dT%H:%M:%SZ}", "creators": ["Tool: nimble-coder-sbom"]},
        "packages": packages,
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": each["SPDXID"],
            }
            for each in packages
        ],
    }


if __name__ == "__main__":
    json.dump(document(sys.argv[1], *map(Path, sys.argv[2:])), sys.stdout, indent=1)
