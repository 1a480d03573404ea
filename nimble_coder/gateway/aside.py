"""Long work on one request, beside the event loop that serves all of them."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

LONG = 16_384
"""Characters, which take about 5 ms to tokenise; bytes to read, or numbers to write, take no longer."""


async def aside(size: int, function: Callable[..., Result], *args: object) -> Result:
    """Runs a function of what is `size` long altogether; in a thread where others would have to wait for it."""
    if size < LONG:
        return function(*args)
    return await asyncio.to_thread(function, *args)
