"""The OpenAPI document, made from the routes and the types of what they read and answer, and a page that shows it."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

import msgspec
from msgspec import Struct

from nimble_coder.gateway.answers.bodies.errors import ErrorResponse, KServeError
from nimble_coder.gateway.apis.management import release
from nimble_coder.gateway.asgi.route import Route

REFUSALS = {
    400: "The request is wrong; the message says what",
    401: "No valid API key",
    403: "Only for the administrator",
    404: "No such model or path",
    408: "The body has not arrived in time",
    413: "The body is too large",
    415: "An unknown Content-Encoding",
    429: "Too many requests; see Retry-After",
    500: "The engine failed",
    503: "Not ready; see Retry-After",
}
REQUEST_ID = {
    "x-request-id": {
        "description": "The request's own, or a new one; the log has it",
        "required": True,
        "schema": {"type": "string"},
    }
}
DECODING = {
    "x-nimble-decoding": {
        "description": "How the tokens were chosen",
        "required": True,
        "schema": {"enum": ["greedy", "sampling"]},
    },
    "x-nimble-drafting": {
        "description": "What proposed the tokens that a step verifies: a drafter of the engine, or none",
        "required": True,
        "schema": {"type": "string", "pattern": "^[a-z_]+$"},
    },
    "x-nimble-lookahead": {
        "description": "The (w,n,g) that was used; 1,1,0 is plain decoding",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+,[0-9]+,[0-9]+$"},
    },
    "x-nimble-draft-tokens": {
        "description": "The most draft tokens per step, where the request drafts by matching suffixes.",
        "schema": {"type": "integer"},
    },
}
IGNORED = {
    "x-nimble-ignored": {
        "description": "Fields of the request that changed nothing, by name",
        "schema": {"type": "string"},
    },
}
WAIT = {"retry-after": {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 1}}}


@cache
def document(routes: tuple[Route, ...]) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(build(routes))


def build(routes: Sequence[Route]) -> dict[str, Any]:
    """OpenAPI 3.1 of the routes."""
    types = {kind: None for route in routes for kind in types_of(route)}
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    shown = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = operation(route, shown)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Nimble Coder", "version": release()},
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                refusal_name(route, status): refusal(status, shown[error_of(route)])
                for route in routes
                for status in route.statuses
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def operation(route: Route, shown: Mapping[Any, Any]) -> dict[str, Any]:
    """One route, with the types' schemas as they are `shown`."""
    refusals = {
        str(status): {"$ref": f"#/components/responses/{refusal_name(route, status)}"} for status in route.statuses
    }
    described: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}_{route.path.strip('/').replace('/', '_').strip('{}') or 'root'}",
        "responses": {"200": success(route, shown), **refusals},
        "security": [] if route.is_open else [{"bearer": []}, {"x-api-key": []}, {}],
    }
    if route.body:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": shown[route.body]}}}
    if "{" in route.path:
        name = route.path[route.path.index("{") + 1 : -1]
        described["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}]
    return described


def types_of(route: Route) -> list[Any]:
    """All that a route reads and answers."""
    answers = [kind for answer in route.answers for kind in answer.types]
    return [*([route.body] if route.body else []), *answers, error_of(route)]


def error_of(route: Route) -> type[Struct]:
    """The shape of its refusals."""
    return KServeError if route.path.startswith("/v2") else ErrorResponse


def refusal_name(route: Route, status: int) -> str:
    """Its key among the responses that routes share."""
    return f"{error_of(route).__name__}{status}"


def success(route: Route, shown: Mapping[Any, Any]) -> dict[str, Any]:
    """The response 200; a stream's schema is that of one event."""
    content = {}
    for answer in route.answers:
        schemas = [shown[kind] for kind in answer.types]
        schema = {"anyOf": schemas} if len(schemas) > 1 else schemas[0] if schemas else {"type": "string"}
        is_stream = answer.content_type == "text/event-stream"
        content[answer.content_type] = {"schema": event(schema) if is_stream else schema}
    headers = {**REQUEST_ID, **(DECODING if route.is_generating else {}), **(IGNORED if route.body else {})}
    return {"description": "The answer", "headers": headers, "content": content}


def event(schema: dict[str, Any]) -> dict[str, Any]:
    """A server-sent event, whose data is JSON; OpenAI's streams end with one that says so."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    return {"type": "object", "required": ["data"], "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}}}


def refusal(status: int, schema: dict[str, Any]) -> dict[str, Any]:
    """A response with an error object."""
    headers = {**REQUEST_ID, **(WAIT if status in (429, 503) else {})}
    return {"description": REFUSALS[status], "headers": headers, "content": {"application/json": {"schema": schema}}}


@cache
def page(routes: tuple[Route, ...]) -> bytes:
    """`/docs`: routes and fields as plain HTML."""
    content = build(routes)
    rows = []
    for route in routes:
        rows.append(f"<tr><td>{route.method}</td><td><code>{escape(route.path)}</code></td>")
        rows.append(f"<td>{escape(route.summary)}</td><td>{links([route.body])}</td>")
        rows.append(f"<td>{links(kind for answer in route.answers for kind in answer.types)}</td></tr>")
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


def links(types: Iterable[Any]) -> str:
    """To those of the types that have a description of their own."""
    names = [kind.__name__ for kind in types if isinstance(kind, type) and issubclass(kind, Struct)]
    return ", ".join(f'<a href="#{name}">{name}</a>' for name in dict.fromkeys(names))


def shown_type(spec: dict[str, Any]) -> str:
    """A field's type in a few words."""
    if "anyOf" in spec:
        return " | ".join(shown_type(part) for part in spec["anyOf"])
    return str(spec.get("type") or spec.get("$ref", "").rsplit("/", 1)[-1])
