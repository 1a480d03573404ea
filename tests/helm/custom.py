"""Custom resources, held to the definitions of their kinds in `definitions/`."""

from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.helm.chart import Document


def strict(node: Any) -> Any:
    """A definition's schema as the API server holds objects to it where unknown fields are refused."""
    if isinstance(node, list):
        return [strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    result = {name: strict(each) for name, each in node.items()}
    if result.pop("x-kubernetes-int-or-string", False):
        result.pop("type", None)
    if "properties" in result and not result.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


def check_custom(document: Document, definition: str) -> None:
    """Raises `jsonschema.ValidationError` where a custom resource is not as its definition has it."""
    spec = yaml.safe_load((Path(__file__).parent / "definitions" / f"{definition}.yaml").read_text())["spec"]
    (version,) = [each for each in spec["versions"] if document["apiVersion"] == f"{spec['group']}/{each['name']}"]
    assert document["kind"] == spec["names"]["kind"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(document, schema)
