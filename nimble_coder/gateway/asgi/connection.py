"""An HTTP connection whose request heads have a limit of time and of size, and its answers one of time: uvicorn's have
none of them with httptools.

It also closes so that a client that is still sending reads why it was refused.
"""

import asyncio
import socket
from collections.abc import Callable, Sized
from http import HTTPStatus

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import BODY_SECONDS, UNREAD_SECONDS
from nimble_coder.processes.open_files import limit

HEAD_BYTES = 65_536
KEPT = 4
"""One in so many of the files that this process may open is for what no caller of the API may keep from others."""


class OpenLength(int):
    """The length of a body that ends where its connection does: uvicorn counts a length down and wants 0 at the end."""

    def __lt__(self, other: int) -> bool:
        return False

    def __sub__(self, other: int) -> "OpenLength":
        return self


class PipelineFlow(FlowControl):
    """Reads on only once the requests that have come at once are answered but for the last: uvicorn's reads on with
    each answer, and one that ends its requests faster than they are answered would fill the memory."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        """`waiting` are the requests that have come behind the one that is being answered."""
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """See `FlowControl`."""
        if not self._waiting:
            super().resume_reading()


class LastTransport(asyncio.Transport):
    """What a connection's last request answers through: how it closes is the connection's to say."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        super().__init__()
        self._transport = transport
        self._close = close

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `asyncio.WriteTransport`."""
        self._transport.write(data)

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return self._transport.is_closing()

    def close(self) -> None:
        """See `asyncio.BaseTransport`."""
        self._close()


class Parser:
    """httptools' parser, which passes over an offer to go on in HTTP/2 instead of taking the request's body for a part
    of that. Java's client makes one with its first request, unless it is told otherwise."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._renew()

    def feed_data(self, data: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        while data:
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as offer:
                if not self._connection.passes_over:
                    raise
                data = self._connection.head_without_offer() + data[offer.args[0] :]
                self._renew()
            else:
                return

    def _renew(self) -> None:
        self._parser = HttpRequestParser(self._connection)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.get_http_version, self.get_method = self._parser.get_http_version, self._parser.get_method
        self.should_keep_alive, self.should_upgrade = self._parser.should_keep_alive, self._parser.should_upgrade


class Connection(HttpToolsProtocol):
    """Closes itself where a head does not end, the first one and one that a connection that is kept alive begins, and
    where an answer is not read.

    What waits for a next head and has none of it yet, uvicorn's own timer ends. Nothing here happens per token.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """See `asyncio.Protocol`; under TLS, the handshake is over."""
        super().connection_made(transport)
        self.flow = PipelineFlow(transport, self.pipeline)
        self.parser = Parser(self)  # type: ignore[assignment] # has what is used of one
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        """Set while more waits to be sent than should."""
        self._size = 0
        """Bytes of a head, or of what stands around a body (chunk extensions, trailers), since some of that came."""
        self._is_in_head = True
        self._has_body = False
        self._is_over = False
        """Whether the last response has been sent, and the rest of a body that it did not wait for is thrown away."""
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_waiting()
        self._is_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: the client takes less than it is sent."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._is_read()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        cycle, self._has_body = self.cycle, False
        super().data_received(data)
        if self.cycle is not cycle or self.transport.get_protocol() is not self:
            return  # a head has ended, that of a websocket maybe
        self._size = 0 if self._has_body else self._size + len(data)
        if self._size > HEAD_BYTES:
            text = f"the headers are larger than {HEAD_BYTES} bytes: send less"
            self._refuse(ApiError(431, text, "headers_too_large"))
        elif cycle is not None and cycle.response_complete and self._timer is None:
            self._wait()  # for the end of a head, or of a body that was refused before it had come

    def on_headers_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        if self.passes_over:
            return
        self._stop_waiting()
        self._size = 0
        self._is_in_head = False
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is before:
            return
        if not self.cycle.keep_alive:
            self.cycle.transport = LastTransport(self.transport, self._end)
        if self.scope["http_version"] == "1.0":  # which knows neither chunks nor the status 100
            self.cycle.chunked_encoding, self.cycle.expected_content_length = False, OpenLength()
            self.cycle.waiting_for_100_continue = False

    def on_body(self, body: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        self._has_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        if self.passes_over:
            return
        self._size = 0
        self._is_in_head = True
        super().on_message_complete()
        if self._is_over:
            self.transport.close()

    @property
    def passes_over(self) -> bool:
        """Whether the request that is being read offers another protocol than this server has."""
        return self.parser.should_upgrade() and self._get_upgrade() is not None and not self._should_upgrade()

    def head_without_offer(self) -> bytes:
        """The head that has just been read."""
        kept = [(name, value) for name, value in self.headers if name != b"upgrade"]
        lines = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url), *(b"%b: %b" % each for each in kept)]
        return b"\r\n".join([*lines, b"", b""])

    def on_response_complete(self) -> None:
        """See `HttpToolsProtocol`: what has come of a body that was refused is of no use."""
        if self.cycle.response_complete:  # a pipelined request may be the current one, and waits for its turn
            self.cycle.body.clear()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """See `HttpToolsProtocol`: nothing is said behind the last response."""
        if self._is_over:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def _end(self) -> None:
        """Closes the connection behind its last response, once the request's body has come.

        The kernel resets a connection that is closed with something unread, and the client then loses the response.
        """
        if self._is_in_head:
            self.transport.close()
            return
        self._is_over = True
        self._wait()
        if self.transport.can_write_eof():  # not under TLS
            self.transport.write_eof()

    def _wait(self) -> None:
        text = f"the headers have not arrived in {BODY_SECONDS:.0f} s: send the request again"
        self._timer = self.loop.call_later(BODY_SECONDS, self._refuse, ApiError(408, text, "request_timeout"))

    def _wait_for_reader(self) -> None:
        self._unread = self.loop.call_later(UNREAD_SECONDS, self._check_reader, self.transport.get_write_buffer_size())

    def _check_reader(self, before: int) -> None:
        """A large answer is written at once, and all of it has to go before `resume_writing`: that may take long."""
        if self.transport.get_write_buffer_size() < before:
            self._wait_for_reader()
        else:
            self.transport.abort()

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: ApiError) -> None:
        """Closes the connection, with an answer where none is being sent."""
        self._stop_waiting()
        if not self._is_over and (self.cycle is None or self.cycle.response_complete):
            head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
            head += f"content-length: {len(error.body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + error.body)
        self.transport.close()


def is_kept(connection: socket.socket) -> bool:
    """Whether a connection has one of the files that are not for callers of the API: the kernel gives out the lowest
    number that is free, so it tells how many are open."""
    most = limit()
    return connection.fileno() >= most - most // KEPT


class ApiConnection(Connection):
    """Leaves files to the health port, and to connections to Triton and over gRPC: many idle connections would
    otherwise have a service that is only busy taken for dead."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        if is_kept(transport.get_extra_info("socket")):
            text = "too many connections are open: try again shortly"
            self._refuse(ApiError(503, text, "too_many_connections"))
