"""The lean HTTP/2 client against gRPC's own server: sizes, statuses, cancellation, lost connections."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from hpack import Decoder

from nimble_coder.gateway.upstream.http2 import CallError, Channel, request_headers

COUNT, FAIL, ENDLESS = "/test/Count", "/test/Fail", "/test/Endless"


def count(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    """`SIZE TIMES rest`: answers with the request's length and so many messages of that size."""
    for request in requests:
        size, times = (int(number) for number in request.split(b" ", 2)[:2])
        yield str(len(request)).encode()
        for _number in range(times):
            yield b"x" * size


def fail(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """Answers once and then fails with the request's text."""
    yield b"before"
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, next(requests).decode())


@dataclass
class Server(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Three methods over raw bytes."""

    port: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        handler = {COUNT: count, FAIL: fail, ENDLESS: self.endless}.get(details.method)
        return grpc.stream_stream_rpc_method_handler(handler) if handler else None

    def endless(self, _: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Ticks until the client cancels."""
        context.add_callback(self.cancelled.set)
        while context.is_active():
            yield b"tick"
            self.cancelled.wait(0.001)


@pytest.fixture
def server() -> Iterator[Server]:
    with ThreadPoolExecutor(32) as pool:
        handler = Server()
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", -1)])
        server.add_generic_rpc_handlers([handler])
        handler.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield handler
        server.stop(0).wait()


async def everything(channel: Channel, method: str, message: bytes) -> list[bytes]:
    call, found = await channel.call(method, message), []
    while messages := await call.read():
        found += messages
    return found


@pytest.mark.parametrize("request_size", [0, 100, 16_384, 70_000, 3_000_000])
@pytest.mark.parametrize(("size", "times"), [(0, 3), (10, 1000), (100_000, 20), (6_000_000, 2)])
def test_messages_of_any_size_arrive_whole_and_in_order(
    server: Server, request_size: int, size: int, times: int
) -> None:
    message = b"%d %d " % (size, times) + b"y" * request_size

    async def run() -> None:
        channel = Channel("127.0.0.1", server.port)
        found = await everything(channel, COUNT, message)
        channel.close()
        assert found[0] == str(len(message)).encode()
        assert found[1:] == [b"x" * size] * times

    asyncio.run(run())


def test_many_calls_share_the_connection(server: Server) -> None:
    async def run() -> None:
        channel = Channel("127.0.0.1", server.port)
        messages = [b"%d %d " % (number, number) + b"y" * 5000 * number for number in range(40)]
        found = await asyncio.gather(*(everything(channel, COUNT, message) for message in messages))
        channel.close()
        assert [len(each) for each in found] == [number + 1 for number in range(40)]
        assert [each[0] for each in found] == [str(len(message)).encode() for message in messages]

    asyncio.run(run())


def test_a_status_comes_with_its_message_behind_what_was_sent(server: Server) -> None:
    async def run() -> None:
        channel = Channel("127.0.0.1", server.port)
        call = await channel.call(FAIL, "too much: 100 % é".encode())
        assert await call.read() == [b"before"]
        with pytest.raises(CallError, match="too much: 100 % é") as caught:
            await call.read()
        assert caught.value.status == 8
        with pytest.raises(CallError) as unknown:
            await everything(channel, "/test/Nothing", b"")
        assert unknown.value.status == 12
        channel.close()

    asyncio.run(run())


def test_a_lost_connection_ends_the_calls_and_the_next_one_connects_again(server: Server) -> None:
    async def run() -> None:
        channel = Channel("127.0.0.1", server.port)
        call = await channel.call(ENDLESS, b"")
        await call.read()
        channel.close()
        with pytest.raises(CallError, match="was lost"):
            while await call.read():
                pass
        assert (await everything(channel, COUNT, b"0 0 "))[0] == b"4"
        channel.close()

    asyncio.run(run())


def test_no_server_is_told_at_once() -> None:
    async def run() -> None:
        with pytest.raises(CallError, match="failed to connect"):
            await Channel("127.0.0.1", 1).call(COUNT, b"")

    asyncio.run(run())


@pytest.mark.parametrize("length", [1, 126, 127, 128, 254, 255, 256, 4000])
def test_the_headers_of_a_call_can_be_read_whatever_they_are_long(length: int) -> None:
    block = request_headers("/m" * length, "h" * length)
    found = Decoder(max_header_list_size=1 << 20).decode(block)
    headers = {str(name): str(value) for name, value in found}
    assert (headers[":path"], headers[":authority"]) == ("/m" * length, "h" * length)
    assert (headers["content-type"], headers["te"]) == ("application/grpc", "trailers")
