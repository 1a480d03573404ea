"""HTTP/2 frames without end, from callers who need no key for them: others are answered all the same."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc

from nimble_coder.gateway.upstream.http2 import SETTINGS, WINDOW_UPDATE, frame
from nimble_coder.processes.serving import Serving

LIVE = "/inference.GRPCInferenceService/ServerLive"
FRAMES = frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 2000
CONNECTIONS, SECONDS, CALLS = 2, 5.0, 3


@contextmanager
def flood(there: tuple[str, int]) -> Iterator[None]:
    """Sends them again and again while the block runs."""
    ended = threading.Event()

    def send() -> None:
        while not ended.is_set():
            # gRPC may end the connection, or read no more of it: it is for others' sake.
            with suppress(OSError), socket.create_connection(there, timeout=1) as connection:
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
                while not ended.is_set():
                    connection.sendall(FRAMES)

    senders = [threading.Thread(target=send) for _ in range(CONNECTIONS)]
    for sender in senders:
        sender.start()
    try:
        yield
    finally:
        ended.set()
        for sender in senders:
            sender.join()


def test_others_are_answered_beside_frames_without_end(gateway: Serving) -> None:
    with flood((gateway.addresses.host, gateway.addresses.grpc_port)):
        time.sleep(0.2)
        for _ in range(CALLS):
            own = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
            with grpc.insecure_channel(gateway.addresses.grpc, own) as channel:
                channel.unary_unary(LIVE)(b"", timeout=SECONDS)
