"""Requests to each route that writes, which ask for what a field of the table asks for."""

from typing import Any

from nimble_coder.gateway.requests.field_check import HONOURED, ROUTES
from nimble_coder.gateway.requests.fields import FIELDS, Engine, Field, Otherwise

SENT: dict[str, tuple[str, dict[str, Any]]] = {
    "completions": ("/v1/completions", {"prompt": "import os", "max_tokens": 1}),
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}),
    "responses": ("/v1/responses", {"input": "hi", "max_output_tokens": 1}),
    "fim": ("/v1/fim/completions", {"prompt": "import os", "max_tokens": 1}),
    "infill": ("/infill", {"input_prefix": "import os", "n_predict": 1}),
    "llama": ("/completion", {"prompt": "import os", "n_predict": 1}),
}
BESIDE: dict[str, dict[str, Any]] = {
    "best_of": {"n": 2},
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": FIELDS["tools"].example},
    "function_call": {"functions": FIELDS["functions"].example},
    "repo_name": {"input_extra": FIELDS["input_extra"].example},
    "filename": {"input_extra": FIELDS["input_extra"].example},
}
"""What a field needs beside it on the route that honours it."""
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "options.num_predict")
"""Of which one is sent."""


def body_with(base: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    outer, _, inner = name.partition(".")
    return {**base, outer: {inner: value} if inner else value}


def asking(route: str, field: Field) -> dict[str, Any]:
    """A request that asks for what the field's example asks for."""
    base, is_honoured = SENT[route][1], field.name in HONOURED[ROUTES[route]]
    if field.name in LENGTHS and is_honoured:
        base = {name: value for name, value in base.items() if name not in LENGTHS}
    beside = BESIDE.get(field.name, {}) if is_honoured else {}
    if route == "completions" and "input_extra" in (field.name, *beside):
        beside = {**beside, "suffix": "\n"}
    return body_with({**base, **beside}, field.name, field.example)


def fate(route: str, field: Field, engine: Engine) -> str:
    """What has to become of the field's example."""
    if field.name in HONOURED[ROUTES[route]] and field.needs <= engine:
        return "honoured"
    return {Otherwise.ACCEPTED: "honoured", Otherwise.IGNORED: "ignored", Otherwise.REFUSED: "refused"}[field.otherwise]
