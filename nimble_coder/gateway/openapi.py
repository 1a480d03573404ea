"""The OpenAPI document, made from the routes and the request types, and a page that shows it."""

from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any

import msgspec

from nimble_coder.gateway.management import release
from nimble_coder.gateway.route import Route

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
REFUSALS = {
    "400": "The request is wrong; the message says what",
    "401": "No valid API key",
    "403": "Only for the administrator",
    "404": "No such model or path",
    "413": "The body is too large",
    "429": "Too many requests; see Retry-After",
    "503": "Not ready; see Retry-After",
}


@cache
def document(routes: tuple[Route, ...]) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(build(routes))


def build(routes: Sequence[Route]) -> dict[str, Any]:
    """OpenAPI 3.1 of the routes."""
    types = [route.body for route in routes if route.body]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "summary": route.summary,
            "operationId": f"{route.method.lower()}_{route.path.strip('/').replace('/', '_').strip('{}') or 'root'}",
            "responses": {
                "200": {"description": "The answer"},
                **{status: refusal(text) for status, text in REFUSALS.items()},
            },
            "security": [] if route.is_open else [{"bearer": []}, {"x-api-key": []}, {}],
        }
        if route.body:
            schema = {"$ref": f"#/components/schemas/{route.body.__name__}"}
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        if "{" in route.path:
            name = route.path[route.path.index("{") + 1 : -1]
            operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}]
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Nimble Coder", "version": release()},
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def refusal(text: str) -> dict[str, Any]:
    """A response with OpenAI's error object."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": text, "content": content}


@cache
def page(routes: tuple[Route, ...]) -> bytes:
    """`/docs`: routes and fields as plain HTML."""
    content = build(routes)
    rows = []
    for path, operations in content["paths"].items():
        for method, operation in operations.items():
            rows.append(f"<tr><td>{method.upper()}</td><td><code>{escape(path)}</code></td>")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            name = body.get("$ref", "").rsplit("/", 1)[-1]
            link = f'<a href="#{name}">{name}</a>' if name else ""
            rows.append(f"<td>{escape(operation['summary'])}</td><td>{link}</td></tr>")
    types = []
    for name, schema in content["components"]["schemas"].items():
        fields = "".join(
            f"<li><code>{escape(field)}</code> <small>{escape(shown_type(spec))}</small></li>"
            for field, spec in schema.get("properties", {}).items()
        )
        types.append(f'<h3 id="{name}">{name}</h3><p>{escape(schema.get("description", ""))}</p><ul>{fields}</ul>')
    style = (
        "body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}td{padding:.2rem .8rem .2rem 0}"
    )
    text = (
        f"<!doctype html><meta charset=utf-8><title>Nimble Coder API</title><style>{style}</style>"
        f"<h1>Nimble Coder {release()}</h1><p><a href=/openapi.json>openapi.json</a></p>"
        f"<table>{''.join(rows)}</table>{''.join(types)}"
    )
    return text.encode()


def shown_type(spec: dict[str, Any]) -> str:
    """A field's type in a few words."""
    if "anyOf" in spec:
        return " | ".join(shown_type(part) for part in spec["anyOf"])
    return str(spec.get("type") or spec.get("$ref", "").rsplit("/", 1)[-1])
