"""Holds answers to what the OpenAPI document says of them, with schemathesis' own checks."""

from functools import cache
from typing import Any

import httpx
import schemathesis
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from nimble_coder.gateway.apis.openapi import build
from nimble_coder.gateway.apis.routes import ROUTER, ROUTES
from nimble_coder.gateway.errors import ApiError

CHECKS: list[Any] = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def closed_document() -> dict[str, Any]:
    """The document, but that no object may have more fields than it names: clients ignore them, the tests do not."""
    document = build(ROUTES)
    for schema in document["components"]["schemas"].values():
        schema["additionalProperties"] = False
    return document


@cache
def described() -> Any:
    """The document as schemathesis holds answers to it."""
    return schemathesis.openapi.from_dict(closed_document())


def check_described(answer: httpx.Response) -> None:
    """Fails where the document does not allow this answer to its request."""
    request = answer.request
    try:
        route, left_open = ROUTER.find(request.method, request.url.path)
    except ApiError:
        return  # no route, and so none that could be described
    if request.method != route.method:
        return  # HEAD
    operation = described()[route.path][route.method]
    parameters = {parameter.name: left_open for parameter in operation.path_parameters}
    operation.Case(path_parameters=parameters).validate_response(answer, checks=CHECKS)


class CheckingClient(httpx.Client):
    """Checks every answer that is not read piece by piece."""

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        answer = super().send(request, stream=stream, **options)
        if not stream:
            check_described(answer)
        return answer
