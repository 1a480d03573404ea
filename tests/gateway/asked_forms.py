"""A form of every kind, and the routes that hold an answer to one."""

import json
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "kinds": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "count", "kinds"],
    "additionalProperties": False,
}
TEXT = json.dumps(SCHEMA)
NAMED = {"name": "thing", "schema": SCHEMA}
CHOICE = ["yes", 'no, "never"', "größe"]
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "say something"}], "max_tokens": 200},
    "/v1/completions": {"prompt": "import os", "max_tokens": 200},
    "/completion": {"prompt": "import os", "n_predict": 200},
    "/infill": {"input_prefix": "x = ", "input_suffix": "\n", "n_predict": 200},
}


def is_thing(text: str) -> bool:
    return bool(Draft202012Validator(SCHEMA).is_valid(json.loads(text)))


def tool(name: str, parameters: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    shown = {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, **shown, **more}}
