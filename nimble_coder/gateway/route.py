"""What a route is: a method and a path, how they are handled, and what the API's page says of them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from nimble_coder.gateway.exchange import Exchange

Handler = Callable[[Any, Exchange], Awaitable[None]]
"""Called with the application and the exchange."""


@dataclass(frozen=True)
class Route:
    """`{name}` at the end of the path stands for all that follows."""

    method: str
    path: str
    handle: Handler
    summary: str
    body: type[Struct] | None = None
    is_open: bool = False
    """No API key needed."""
    is_limited: bool = False
    """Counts against the rate limit."""
