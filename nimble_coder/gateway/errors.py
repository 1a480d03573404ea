"""What the gateway answers when it cannot do what was asked: OpenAI's error object with the right status."""

import re
from dataclasses import dataclass

import grpc
import msgspec

from nimble_coder.contract.refusals import BY_TEXT
from nimble_coder.gateway.answers.bodies.errors import Error, ErrorResponse, KServeError

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "service_unavailable_error",
}

DRAINING = "draining"
"""The code of what nobody has begun: proxies may send it elsewhere, which `x-should-retry` (OpenAI's) tells them."""


@dataclass
class ApiError(Exception):
    """A request that is refused or failed; `message` says what was wrong, the value seen and what to do."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None
    """Seconds."""
    allowed: tuple[str, ...] = ()
    """The methods that would do."""

    def __str__(self) -> str:
        return self.message

    @property
    def kind(self) -> str:
        """Its code, or its status where it has none; one of a few."""
        return self.code or str(self.status)

    @property
    def body(self) -> bytes:
        """As the OpenAI routes have it."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return msgspec.json.encode(ErrorResponse(Error(self.message, kind, self.param, self.code)))

    @property
    def kserve_body(self) -> bytes:
        """As the routes under `/v2` have it."""
        return msgspec.json.encode(KServeError(self.message))

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        wait = [(b"retry-after", str(self.retry_after).encode())] if self.retry_after is not None else []
        if self.code == DRAINING:
            wait.append((b"x-should-retry", b"true"))
        return [*wait, (b"allow", ", ".join(self.allowed).encode())] if self.allowed else wait

    @property
    def grpc_status(self) -> grpc.StatusCode:
        """The same refusal on the gRPC side."""
        return {
            400: grpc.StatusCode.INVALID_ARGUMENT,
            401: grpc.StatusCode.UNAUTHENTICATED,
            403: grpc.StatusCode.PERMISSION_DENIED,
            404: grpc.StatusCode.NOT_FOUND,
            408: grpc.StatusCode.DEADLINE_EXCEEDED,
            413: grpc.StatusCode.RESOURCE_EXHAUSTED,
            429: grpc.StatusCode.RESOURCE_EXHAUSTED,
            503: grpc.StatusCode.UNAVAILABLE,
        }.get(self.status, grpc.StatusCode.INTERNAL)


def from_triton(text: str) -> ApiError:
    """The answer to an error that Triton or the engine behind it gave as text."""
    text = re.sub(r"^Executor failed process requestId \d+ due to the following error: ", "", text)
    for pattern, status, code in BY_TEXT:
        if pattern.search(text):
            return ApiError(status, text, code, retry_after=1 if status in (429, 503) else None)
    return ApiError(500, f"the engine failed: {text}", "engine_error")
