"""How many calls over gRPC run at once, and for how long one counts whose client reads nothing."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import UNREAD_SECONDS

CALLS = 1024
"""At once in one process; more are told to come back."""
KEPT = 4
"""One in so many is for other clients than the one who has most, where there are several keys."""
WITH_UNREAD = 8 * CALLS
"""With those that do not count any more, which gRPC (1.85) keeps until their clients read or go: it sends the end of a
call behind what was written before."""


class Context:
    """A `grpc.aio.ServicerContext` whose call can always be ended: gRPC (1.85) takes no status while a message is on
    its way, also where the one who wrote it waits no longer."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._writing: asyncio.Future[None] | None = None
        self.peer, self.invocation_metadata = context.peer, context.invocation_metadata

    @property
    def is_writing(self) -> bool:
        """Whether a message waits for the client to read."""
        return self._writing is not None and not self._writing.done()

    async def write(self, message: bytes) -> None:
        """Sends a message behind the one that is on its way; whoever is cancelled here leaves it there."""
        while self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])
        self._writing = asyncio.ensure_future(self._context.write(message))
        self._writing.add_done_callback(lambda writing: writing.cancelled() or writing.exception())
        await asyncio.shield(self._writing)

    async def abort(self, status: grpc.StatusCode, text: str) -> NoReturn:
        """Ends the call behind what is on its way; raises gRPC's own error."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._context.abort(status, text)
        raise AssertionError("abort raises")


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
        self._calls = dict[Context, str]()
        """Each with its client, once that is known."""

    @property
    def taken(self) -> int:
        return len(self._calls)

    @property
    def are_taken(self) -> bool:
        """Whether there is none for another call."""
        return self.taken >= CALLS

    def belong(self, context: Context, client: str) -> None:
        """Says whose a call is; raises `ApiError` for a client who would leave none to others."""
        most = CALLS - max(CALLS // KEPT, 1)
        if (count := [*self._calls.values()].count(client)) >= most:
            raise ApiError(429, f"{count} calls of yours are running: end some of them", "too_many_requests")
        if context in self._calls:
            self._calls[context] = client

    @contextmanager
    def one(self, context: Context) -> Iterator[None]:
        """The call has a slot while the block runs."""
        self._calls[context] = ""
        try:
            yield
        finally:
            self._calls.pop(context, None)

    @contextmanager
    def writing(self, context: Context) -> Iterator[None]:
        """The call gives its slot back where the block, which writes its answer, takes too long, or waits for one that
        did; the block goes on."""
        seconds = 0 if context.is_writing else UNREAD_SECONDS
        timer = asyncio.get_running_loop().call_later(seconds, self._calls.pop, context, None)
        try:
            yield
        finally:
            timer.cancel()
