"""One HTTP request and its response, directly on ASGI: no layer between a token and the socket."""

import asyncio
import re
import secrets
import zlib
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import unquote

from nimble_coder.gateway.errors import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
BODY_SECONDS = 60.0
"""How long a body may take: 8 MiB, the usual limit, at 1.2 Mbit/s; and the head before it. What never ends would be
held for ever."""
UNREAD_SECONDS = 120.0
"""How long a client may take nothing of what waits for it: a generation has its place until its last token is sent."""
HEAD_SECONDS = 1.0
"""How long a stream's head waits for its first event, so that a refusal still has its status; then it goes alone, since
clients and proxies give up on a server that says nothing."""
QUIET_SECONDS = 10.0
"""After so long without an event a stream has a comment, which clients pass over."""
KEEP_ALIVE = b": keep-alive\n\n"
READERS = 8
"""Large bodies that are read at once, and gRPC messages: each may be as large as `max_body_bytes`."""
LARGE = 65_536
"""Bytes of a body from which on it takes one of those places; uvicorn holds that much in any case."""
METRICS_PORT = "nimble.metrics_port"
"""In the scope of a request that came to the metrics port."""
IDENTITY = "identity"
JSON_LENGTH = "inference-header-content-length"
"""KServe's header for the bytes of JSON in a body."""
GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class ClientGone(Exception):  # noqa: N818 - not an error: editors hang up at every keystroke
    """The client closed the connection before its answer was complete."""


class Exchange:
    """A request to read from and a response to write to."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, readers: asyncio.Semaphore | None = None) -> None:
        """`readers` are the places for large bodies, of which there are any number without it."""
        self.scope = scope
        self._readers = readers or asyncio.Semaphore()
        self._receive, self._send = receive, send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.header("x-request-id") or ""
        self.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.parameter = ""
        """What the route's pattern left open of the path."""
        self.client = ""
        """Who calls: a name made from the API key, or the address."""
        self.figures: dict[str, int | float] = {}
        """What it consumed, for its trace."""
        self.extra_headers: Headers = []
        self.failing: Callable[[ApiError], bytes] | None = None
        """How a stream that has begun ends where it fails; None has the error object as its last event."""
        self.status = 0
        """Of the response; 0 before it has started."""
        self._is_quiet = False
        """Whether nothing has been written since somebody looked."""

    def header(self, name: str) -> str | None:
        """A request header."""
        value = self._headers.get(name.encode("ascii"))
        return value.decode("latin-1") if value is not None else None

    @property
    def is_reading(self) -> bool:
        """GET, or HEAD, which is answered alike but for the body."""
        return self.method in ("GET", "HEAD")

    @property
    def raw_target(self) -> str:
        """Path and query as they were sent."""
        raw: bytes = self.scope.get("raw_path") or unquote(self.path).encode()
        query: bytes = self.scope["query_string"]
        return (raw + (b"?" + query if query else b"")).decode("latin-1")

    @property
    def is_on_metrics_port(self) -> bool:
        return bool(self.scope.get(METRICS_PORT))

    async def body(self, limit: int) -> bytes:
        """The whole body, uncompressed and without a byte order mark.

        Raises `ApiError` 413 above `limit` bytes, 408 where it takes too long, 415 for an encoding that is unknown,
        and `ClientGone`.
        """
        try:
            sent = await asyncio.wait_for(self._read_body(limit), BODY_SECONDS)
        except TimeoutError:
            self.extra_headers = [*self.extra_headers, (b"connection", b"close")]  # the rest may still come
            text = f"the body has not arrived in {BODY_SECONDS:.0f} s: send the request again"
            raise ApiError(408, text, "request_timeout") from None
        encoding = (self.header("content-encoding") or IDENTITY).lower()
        content = sent if encoding == IDENTITY else await asyncio.to_thread(uncompressed, sent, encoding, limit)
        # Where binary data follows the JSON, its length is stated, the mark included.
        return content if self.header(JSON_LENGTH) else content.removeprefix(BOM_UTF8)

    async def _read_body(self, limit: int) -> bytes:
        too_large = ApiError(413, f"the body is larger than {limit} bytes: send less", "content_too_large")
        header = self.header("content-length") or "0"
        declared = int(header) if header.isdigit() else 0
        if declared > limit:
            raise too_large
        content, more, is_placed = bytearray(), True, False
        async with AsyncExitStack() as places:
            # A failure's frames stay until the next collection of garbage, which is rare here: they hold no body.
            places.push(lambda kind, *_: content.clear() if kind else None)
            while more:
                if max(declared, len(content)) > LARGE and not is_placed:
                    is_placed = True
                    await places.enter_async_context(self._readers)
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                content += message.get("body", b"")
                if len(content) > limit:
                    raise too_large
                more = message.get("more_body", False)
        return bytes(content)

    async def respond(
        self, status: int, body: bytes, content_type: bytes = JSON, headers: Headers | None = None
    ) -> None:
        """The whole response at once."""
        await self.start(status, content_type, [(b"content-length", str(len(body)).encode()), *(headers or [])])
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def start(self, status: int, content_type: bytes, headers: Headers | None = None) -> None:
        """The head of a response whose body `write` sends."""
        self.status = status
        fixed = [(b"content-type", content_type), (b"x-request-id", self.request_id.encode())]
        all_headers = [*fixed, *self.extra_headers, *(headers or [])]
        await self._send({"type": "http.response.start", "status": status, "headers": all_headers})

    async def write(self, body: bytes, more: bool = True) -> None:
        """A part of the body, sent at once."""
        self._is_quiet = False
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    @asynccontextmanager
    async def kept_alive(self, content_type: bytes, headers: Headers) -> AsyncIterator[None]:
        """Runs the block, which sends a stream of events, and sends its head and comments where the block is silent."""
        keeper = asyncio.create_task(self._keep_alive(content_type, headers))
        try:
            yield
        finally:
            keeper.cancel()

    async def _keep_alive(self, content_type: bytes, headers: Headers) -> None:
        await asyncio.sleep(HEAD_SECONDS)
        if not self.status:
            await self.start(200, content_type, headers)
        while True:
            self._is_quiet = True
            await asyncio.sleep(QUIET_SECONDS / 2)  # twice as often as a comment is due, which costs the events nothing
            if self._is_quiet:
                await self.write(KEEP_ALIVE)

    async def fail(self, error: ApiError) -> None:
        """An error as the response; inside a stream that has started, as its last event."""
        is_kserve = self.path.startswith("/v2")
        body = error.kserve_body if is_kserve else error.body
        if not self.status:
            await self.respond(error.status, body, headers=error.headers)
        elif self.failing:
            await self.write(self.failing(error), more=False)
        else:
            await self.write(b"data: " + body + (b"\n\n" if is_kserve else b"\n\ndata: [DONE]\n\n"), more=False)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Runs the block while the client is there; raises `ClientGone` out of it as soon as it hangs up.

        The body must have been read before.
        """
        worker = asyncio.current_task()
        assert worker is not None  # noqa: S101 - an ASGI application runs in a task
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone = True
            worker.cancel()

        watcher = asyncio.create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            if gone:
                raise ClientGone from None
            raise
        finally:
            watcher.cancel()


def uncompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """A body as it was before it was compressed; raises `ApiError`."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ApiError(415, f"Content-Encoding {encoding[:40]!r} is not known: use gzip or deflate", "unsupported")
    inflater = zlib.decompressobj(GZIP_OR_ZLIB)
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise ApiError(400, f"the body is not {encoding}: {error}", "invalid_encoding") from None
    if len(content) > limit:
        raise ApiError(413, f"the body is larger than {limit} bytes when uncompressed: send less", "content_too_large")
    if not inflater.eof or inflater.unused_data:
        raise ApiError(400, f"the body is not one whole {encoding} stream", "invalid_encoding")
    return content
