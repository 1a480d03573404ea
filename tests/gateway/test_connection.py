"""A head that never ends and an answer that nobody reads are given up, and nothing else is: over real sockets, with the
gateway's own configuration."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
import uvloop
from uvicorn.server import ServerState

from nimble_coder.gateway.asgi.connection import HEAD_BYTES, Connection
from nimble_coder.gateway.exchange import Exchange, Receive, Scope, Send
from nimble_coder.gateway.server import HttpServer, listen, uvicorn_config
from nimble_coder.gateway.settings import GatewaySettings
from tests.gateway.conftest import wait_until

SECONDS = 1.0
"""For a head in these tests."""
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PARTS = 5
LARGE, LARGE_PARTS = 1 << 20, 64
"""Bytes of each part of `/large`, and how many there are: more than the kernel takes in."""


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """An application whose answers to `/slow` take twice as long as a head may, and whose others come at once."""
    exchange = Exchange(scope, receive, send)
    if exchange.path == "/large":
        await exchange.start(200, b"text/plain")
        for _ in range(LARGE_PARTS):
            await exchange.write(b"x" * LARGE)
        return
    if exchange.path == "/echo":
        body = await exchange.body(LARGE)
        await exchange.respond(200, exchange.method.encode() + b" " + body, b"text/plain")
        return
    if exchange.path == "/whole":
        await exchange.respond(200, b"whole", b"text/plain")
        return
    await exchange.start(200, b"text/plain")
    for _ in range(PARTS):
        if exchange.path == "/slow":
            await asyncio.sleep(2 * SECONDS / PARTS)
        await exchange.write(b"part")
    await exchange.write(b"", more=False)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[int]:
    for name in ("BODY_SECONDS", "UNREAD_SECONDS"):
        monkeypatch.setattr(f"nimble_coder.gateway.asgi.connection.{name}", SECONDS)
    settings = GatewaySettings(artifact=tmp_path, triton_grpc_port=1, triton_http_port=1, triton_metrics_port=1)
    listener = listen("127.0.0.1", 0)
    server = HttpServer(uvicorn_config(answer, settings, tls=False))  # type: ignore[arg-type] # any application
    thread = threading.Thread(target=lambda: uvloop.run(server.serve([listener])))
    thread.start()
    assert wait_until(lambda: server.started)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        yield connection


def read_to_end(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    found = b""
    with suppress(ConnectionResetError):  # it closes while something is still on its way to it
        while part := connection.recv(65536):
            found += part
    return found


def read_answer(connection: socket.socket) -> bytes:
    """One answer in chunks, whose last is empty."""
    found = b""
    while not found.endswith(b"0\r\n\r\n"):
        part = connection.recv(65536)
        assert part, f"closed after {found!r}"
        found += part
    return found


def dribble(connection: socket.socket, line: bytes) -> None:
    """Sends a line again and again until the server says something or closes."""
    connection.settimeout(SECONDS / 20)
    with suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(400):
            connection.sendall(line)
            with suppress(TimeoutError):
                connection.recv(1, socket.MSG_PEEK)
                break
    connection.settimeout(30)


def is_408(found: bytes) -> bool:
    head, _, body = found.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 408 ") and json.loads(body)["error"]["code"] == "request_timeout"


def test_a_connection_that_sends_nothing_is_closed(port: int) -> None:
    with connected(port) as connection:
        assert is_408(read_to_end(connection))


def test_headers_that_go_on_for_ever_are_given_up(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        dribble(connection, b"x: y\r\n")
        assert is_408(read_to_end(connection))


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\nx: y", b"\r\n"])
def test_a_next_head_that_does_not_end_is_given_up(port: int, line: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(REQUEST)
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(line)
        assert is_408(read_to_end(connection))


def test_an_answer_may_take_longer_and_a_connection_may_rest_longer(port: int) -> None:
    """uvicorn's own limit of rest is 75 s."""
    with connected(port) as connection:
        connection.sendall(REQUEST.replace(b"/", b"/slow", 1))
        assert read_answer(connection).count(b"part") == PARTS
        connection.settimeout(2 * SECONDS)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(30)
        connection.sendall(REQUEST)
        assert read_answer(connection).count(b"part") == PARTS


def test_an_answer_that_nobody_reads_is_given_up(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(REQUEST.replace(b"/", b"/large", 1))
        time.sleep(2 * SECONDS)
        found = read_to_end(connection)
        assert found.startswith(b"HTTP/1.1 200 ")
        assert len(found) < LARGE * LARGE_PARTS


def connected_to(transport: Mock, artifact: Path) -> Connection:
    """A connection over a transport that stands for a client's."""
    settings = GatewaySettings(artifact=artifact, triton_grpc_port=1, triton_http_port=1, triton_metrics_port=1)
    config = uvicorn_config(answer, settings, tls=False)  # type: ignore[arg-type] # any application
    config.load()
    connection = Connection(config, ServerState(), {})
    transport.get_protocol.return_value = connection
    connection.connection_made(transport)
    return connection


def test_an_answer_that_is_read_in_time_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However often its client has to catch up, and as long as it takes any of it."""
    monkeypatch.setattr("nimble_coder.gateway.asgi.connection.UNREAD_SECONDS", 0.01)
    waiting = iter([9, 9, 9, 100, 60, 30, 30])
    """Bytes that are not sent yet, when somebody looks: three times, then while a large answer goes."""
    transport = Mock(asyncio.Transport, get_write_buffer_size=Mock(side_effect=waiting))

    async def run() -> None:
        connection = connected_to(transport, tmp_path)
        for _ in range(3):
            connection.pause_writing()
            connection.resume_writing()
        await asyncio.sleep(0.1)
        transport.abort.assert_not_called()
        connection.pause_writing()
        while not transport.abort.called:
            await asyncio.sleep(0.01)
        assert [*waiting] == []
        connection.connection_lost(None)

    asyncio.run(run())


def test_a_head_that_comes_in_pieces_is_read(port: int) -> None:
    with connected(port) as connection:
        for place in range(len(REQUEST)):
            connection.sendall(REQUEST[place : place + 1])
        assert read_answer(connection).count(b"part") == PARTS


@pytest.mark.parametrize("size", [HEAD_BYTES, HEAD_BYTES + 1])
def test_headers_that_are_too_large_are_refused(port: int, size: int) -> None:
    begun = b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * (HEAD_BYTES // 6)
    with connected(port) as connection:
        connection.sendall(begun[:HEAD_BYTES].ljust(size, b"x"))
        assert read_to_end(connection)[9:12] == (b"408" if size == HEAD_BYTES else b"431")


def test_a_body_counts_as_no_header(port: int) -> None:
    body = b"x" * (4 * HEAD_BYTES)
    head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    with connected(port) as connection:
        for _ in range(2):
            connection.sendall(head.encode() + body)
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("more", [b"", b"connection: keep-alive\r\n", b"expect: 100-continue\r\ncontent-length: 0\r\n"])
@pytest.mark.parametrize("path", [b"/", b"/slow"])
def test_a_client_of_http_1_0_gets_no_chunks_but_the_end_of_the_connection(port: int, path: bytes, more: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET " + path + b" HTTP/1.0\r\nhost: x\r\n" + more + b"\r\n")
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in head
    assert b"\r\nconnection: close" in head
    assert body == b"part" * PARTS


@pytest.mark.parametrize("length", [b"", b"content-length: 4\r\n"])
def test_a_whole_answer_and_none_to_http_1_0(port: int, length: bytes) -> None:
    """What has a length keeps it; HEAD has no body."""
    with connected(port) as connection:
        connection.sendall(b"HEAD / HTTP/1.0\r\nhost: x\r\n\r\n")
        assert read_to_end(connection).endswith(b"\r\n\r\n")
    with connected(port) as connection:
        connection.sendall(b"POST /whole HTTP/1.0\r\nhost: x\r\n" + length + b"\r\n" + b"body"[: 4 * bool(length)])
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    assert b"\r\ncontent-length: 5" in head
    assert body == b"whole"


LAST = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
"""The head of a request that the application answers without reading its body."""


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_last_answer_is_read_by_a_client_that_is_still_sending(port: int, is_chunked: bool) -> None:
    """Closed at once, with something unread, the connection would be reset and the answer lost."""
    piece = b"x" * (1 << 20)
    framed = b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece
    kind = b"transfer-encoding: chunked" if is_chunked else b"content-length: %d" % (4 * len(piece))
    with connected(port) as connection:
        connection.sendall(LAST + kind + b"\r\n\r\n")
        assert connection.recv(1, socket.MSG_PEEK) == b"H"
        for _ in range(4):
            connection.sendall(framed)
        connection.sendall(b"0\r\n\r\n" if is_chunked else b"")
        assert read_answer(connection).count(b"part") == PARTS
        assert connection.recv(1) == b""


@pytest.mark.parametrize("rest", [b"", b"no chunk\r\n"])
def test_a_body_that_nobody_waits_for_is_given_up(port: int, rest: bytes) -> None:
    """Whether it does not come or is none, there is one answer, whose end the client sees at once."""
    with connected(port) as connection:
        connection.sendall(LAST + b"transfer-encoding: chunked\r\n\r\n")
        assert read_to_end(connection).count(b"HTTP/1.1") == 1
        with suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(400):
                connection.sendall(rest or b"1\r\nx\r\n")
                threading.Event().wait(SECONDS / 20)
            pytest.fail("it goes on reading")


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"


@pytest.mark.parametrize("piece", [1, 1000])
@pytest.mark.parametrize(
    "body", [b"Content-Length: 3\r\n\r\none", b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n"]
)
def test_a_request_that_offers_http_2_is_answered_like_others(port: int, body: bytes, piece: int) -> None:
    """Java's HttpClient writes one like this."""
    sent = b"POST /echo HTTP/1.1\r\nHost: x\r\n" + OFFER + body
    last = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\ntwo"
    with connected(port) as connection:
        for start in range(0, len(sent), piece):
            connection.sendall(sent[start : start + piece])
        connection.sendall(last)
        found = read_to_end(connection)
    assert found.count(b"HTTP/1.1 200 ") == 2
    assert b"POST one" in found
    assert found.endswith(b"POST two")


def test_an_offer_with_connect_is_no_loop(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n")
        assert read_to_end(connection).startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("offer", [b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"])
def test_requests_that_come_at_once_are_all_answered_however_many(tmp_path: Path, offer: bytes) -> None:
    """One system call may bring 256 KiB."""
    transport = Mock(asyncio.Transport, is_closing=Mock(return_value=False))

    async def run() -> None:
        connection = connected_to(transport, tmp_path)
        connection.data_received((b"GET /whole HTTP/1.1\r\n" + offer + b"\r\n") * 3000)
        while connection.pipeline or not connection.cycle.response_complete:
            await asyncio.sleep(0.01)
        connection.connection_lost(None)

    asyncio.run(run())
    sent = b"".join(call.args[0] for call in transport.write.call_args_list)
    assert sent.count(b"HTTP/1.1 200 OK") == sent.count(b"\r\n\r\nwhole") == 3000


def test_no_more_is_read_before_the_requests_that_have_come_are_answered(tmp_path: Path) -> None:
    waiting: list[int] = []
    transport = Mock(asyncio.Transport, is_closing=Mock(return_value=False))

    async def run() -> None:
        connection = connected_to(transport, tmp_path)
        transport.resume_reading.side_effect = lambda: waiting.append(len(connection.pipeline))
        connection.data_received(b"POST /echo HTTP/1.1\r\ncontent-length: 1\r\n\r\nx" * 300)
        while connection.pipeline or not connection.cycle.response_complete:
            await asyncio.sleep(0.01)
        connection.connection_lost(None)

    asyncio.run(run())
    assert transport.pause_reading.called
    assert waiting == [0]


CHUNKED = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def fed(artifact: Path, sent: bytes, piece: bytes, most: int) -> int:
    """How many bytes of a piece that comes again and again a connection takes before it closes, up to so many."""
    transport = Mock(asyncio.Transport, is_closing=Mock(return_value=False))

    async def run() -> int:
        connection = connected_to(transport, artifact)
        connection.data_received(sent)
        size = 0
        while size < most and not transport.close.called:
            connection.data_received(piece)
            size += len(piece)
        connection.connection_lost(None)
        return size

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("begun", "piece"),
    [(b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 1000), (b"0\r\na: ", b"x" * 6000), (b"1;", b"x" * 6000)],
    ids=["trailers", "trailer", "extension"],
)
def test_what_stands_around_a_body_is_as_large_as_a_head_at_most(tmp_path: Path, begun: bytes, piece: bytes) -> None:
    """Trailers, which would be kept, one that does not end, and what may stand behind the size of a chunk."""
    assert HEAD_BYTES / 2 < fed(tmp_path, CHUNKED + begun, piece, 16 * HEAD_BYTES) < 2 * HEAD_BYTES


def test_a_body_may_come_in_many_small_chunks(tmp_path: Path) -> None:
    assert fed(tmp_path, CHUNKED, b"1\r\nx\r\n" * 1000, 16 * HEAD_BYTES) > 15 * HEAD_BYTES
