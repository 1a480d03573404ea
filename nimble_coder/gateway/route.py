"""What a route is: a method and a path, how they are handled, and what the API's page says of them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from nimble_coder.gateway.exchange import Exchange

Handler = Callable[[Any, Exchange], Awaitable[None]]
"""Called with the application and the exchange."""


@dataclass(frozen=True)
class Answer:
    """A kind of answer with status 200."""

    types: tuple[Any, ...] = ()
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
