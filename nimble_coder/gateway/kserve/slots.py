"""How many calls over gRPC run at once, and for how long one counts whose client reads nothing."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import UNREAD_SECONDS

CALLS = 1024
"""At once in one process; more are told to come back."""
WITH_UNREAD = 8 * CALLS
"""With those that do not count any more, which gRPC (1.85) keeps until their clients read or go: it sends the end of a
call behind what was written before."""
Context = Any
"""`grpc.aio.ServicerContext`; grpcio has no types."""


async def write(context: Context, message: bytes) -> None:
    """A message of a stream; raises `ApiError` where the client takes it not, and gRPC's own `InternalError` where it
    goes meanwhile."""
    try:
        async with asyncio.timeout(UNREAD_SECONDS):
            await context.write(message)
    except TimeoutError:
        text = f"a message of the stream was not taken in {UNREAD_SECONDS:.0f} s: read it as it comes"
        raise ApiError(408, text, "request_timeout") from None


class Slots:
    """One for each call that counts."""

    def __init__(self) -> None:
        self._calls = set[Context]()

    @property
    def taken(self) -> int:
        return len(self._calls)

    @property
    def are_taken(self) -> bool:
        """Whether there is none for another call."""
        return self.taken >= CALLS

    @contextmanager
    def one(self, context: Context) -> Iterator[None]:
        """The call has a slot while the block runs."""
        self._calls.add(context)
        try:
            yield
        finally:
            self._calls.discard(context)

    @contextmanager
    def writing(self, context: Context) -> Iterator[None]:
        """The call gives its slot back where the block, which writes its answer, takes too long; the block goes on."""
        timer = asyncio.get_running_loop().call_later(UNREAD_SECONDS, self._calls.discard, context)
        try:
            yield
        finally:
            timer.cancel()
