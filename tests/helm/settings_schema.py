"""The product's settings in the chart's values.schema.json: derived from the settings themselves.

    python -m tests.helm.settings_schema

writes that part anew; a test keeps it current.
"""

import json
from typing import Any

from nimble_coder.settings.model import Settings
from tests.helm.chart import CHART

SCHEMA = CHART / "values.schema.json"
THE_IMAGES = {"host", "cache_path", "baked_artifact"}
"""Environment variables of the image, which go before the file that the chart writes."""
THE_CHARTS = {
    *("http_port", "grpc_port", "metrics_port"),
    *("api_keys", "api_keys_file", "admin_key", "hf_token"),
    *("tls_certificate", "tls_key", "tls_client_ca", "tls_mode"),
}
"""What the chart's own values say, or what is secret."""
LISTS = {"served_model_names", "cors_origins"}
KEPT = ("type", "enum", "minimum", "exclusiveMinimum", "maximum", "description")


def settings_schema() -> dict[str, Any]:
    """The part below `settings`."""
    properties = Settings.model_json_schema()["properties"]
    left = {name: each for name, each in properties.items() if name not in THE_IMAGES | THE_CHARTS}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: one_schema(name, each) for name, each in left.items()},
    }


def one_schema(name: str, field: dict[str, Any]) -> dict[str, Any]:
    """Without null, since a setting that is not set is left out; a list may be a list."""
    (meant,) = [choice for choice in field.get("anyOf", [field]) if choice.get("type") != "null"]
    schema = {key: value for key, value in {**field, **meant}.items() if key in KEPT}
    if name in LISTS:
        schema["type"], schema["items"] = ["string", "array"], {"type": "string"}
    return schema


def write() -> None:
    """Keeps the rest of the file."""
    content = json.loads(SCHEMA.read_text())
    content["properties"]["settings"] = settings_schema()
    SCHEMA.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    write()
