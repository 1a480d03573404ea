"""What a route is: a method and a path, how they are handled, and what the API's page says of them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from msgspec import Struct

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.front import Front

Handler = Callable[[Front, Exchange], Awaitable[None]]


@dataclass(frozen=True)
class Answer:
    """A kind of answer with status 200."""

    types: tuple[type, ...] = ()
    """Of its JSON, or of that of each event of a stream, which has one of them; empty where it is no JSON."""
    content_type: str = "application/json"


@dataclass(frozen=True)
class Route:
    """`{name}` at the end of the path stands for all that follows."""

    method: str
    path: str
    handle: Handler
    summary: str
    answers: tuple[Answer, ...]
    body: type[Struct] | None = None
    refusals: tuple[int, ...] = ()
    """Statuses that neither its body, nor keys, nor the rate limit explain."""
    is_open: bool = False
    """No API key needed."""
    is_limited: bool = False
    """Counts against the rate limit."""
    is_generating: bool = False
    """Its answers say in their headers how they were decoded."""

    @property
    def statuses(self) -> tuple[int, ...]:
        """Of all that it refuses."""
        of_body = (400, 408, 413) if self.body else ()
        of_caller = (*(() if self.is_open else (401,)), *((429,) if self.is_limited else ()))
        return tuple(sorted({*self.refusals, *of_body, *of_caller}))


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes
        self._exact = {(route.method, route.path): route for route in routes if not route.path.endswith("}")}
        open_ended = [route for route in routes if route.path.endswith("}")]
        self._prefixes = [(route.method, route.path[: route.path.index("{")], route) for route in open_ended]

    def find(self, method: str, path: str) -> tuple[Route, str]:
        """The route and what its pattern left open; raises `ApiError` 404 or 405."""
        asked = {"HEAD": "GET"}.get(method, method)
        if route := self._exact.get((asked, path)):
            return route, ""
        for known, prefix, route in self._prefixes:
            if path.startswith(prefix) and len(path) > len(prefix) and known == asked:
                return route, path[len(prefix) :]
        methods = {route.method for route in self._routes if route.path == path}
        methods |= {known for known, prefix, _ in self._prefixes if path.startswith(prefix)}
        if not methods:
            hint = f"did you mean {meant!r}?" if (meant := self._meant(path)) else "GET /docs lists what there is"
            raise ApiError(404, f"there is no {path[:100]!r} here: {hint}", "unknown_path")
        if method == "OPTIONS":
            return next(r for r in self._routes if r.path == path or path.startswith(r.path.split("{")[0])), ""
        allowed = tuple(sorted(methods))
        text = f"{method} is not allowed for {path[:100]!r}: use {' or '.join(allowed)}"
        raise ApiError(405, text, "method", allowed=allowed)

    def _meant(self, path: str) -> str | None:
        """The route of a client whose base URL lacks the `/v1`, or has one too many."""
        known = {route.path for route in self._routes}
        return next((other for other in (f"/v1{path}", path.removeprefix("/v1")) if other in known), None)
