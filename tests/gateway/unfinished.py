"""Clients that begin a large request and never end it, over gRPC and over HTTP, each on a connection of its own."""

import asyncio
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path

from nimble_coder.gateway.upstream.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    request_headers,
)

INFER = "/inference.GRPCInferenceService/ModelInfer"
SIZE = 8 << 20
"""Bytes of each message and body."""
FRAME, WINDOW = 16_384, 65_535

Begin = Callable[[str, int], Coroutine[None, None, None]]


async def begin_call(host: str, port: int, method: str = INFER) -> None:
    """All of a message but its last byte, as fast as the server lets it come; returns where the call is ended."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
    writer.write(frame(HEADERS, END_HEADERS, 1, request_headers(method, "x")))
    writer.write(frame(DATA, 0, 1, struct.pack("!BI", 0, SIZE)))
    windows, initial, left = [WINDOW - 5, WINDOW - 5], WINDOW, SIZE - 1
    try:
        while True:
            while (room := min(left, FRAME, *windows)) > 0:
                writer.write(frame(DATA, 0, 1, b"x" * room))
                left, windows = left - room, [window - room for window in windows]
                await writer.drain()
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], head[8]
            if kind == RST_STREAM or (kind == HEADERS and flags & 1):
                return
            if kind == WINDOW_UPDATE:
                windows[stream] += int.from_bytes(payload, "big")
            elif kind == SETTINGS and not flags & ACK:
                for name, value in struct.iter_unpack("!HI", payload):
                    if name == INITIAL_WINDOW_SIZE:
                        windows[1], initial = windows[1] + value - initial, value
                writer.write(frame(SETTINGS, ACK, 0, b""))
    finally:
        writer.transport.abort()


async def begin_body(host: str, port: int, path: str = "/v1/completions") -> None:
    """All of a body but its last byte; returns where the server closes the connection."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {SIZE}\r\n\r\n".encode())
    try:
        for _ in range(SIZE // FRAME - 1):
            writer.write(b"x" * FRAME)
            await writer.drain()
        while await reader.read(FRAME):
            pass
    finally:
        writer.transport.abort()


async def crowd(begin: Begin, host: str, port: int, count: int, seconds: float) -> int:
    """So many of them at once for so long; returns how many the server has ended by itself."""
    tasks = [asyncio.create_task(begin(host, port)) for _ in range(count)]
    ended, waiting = await asyncio.wait(tasks, timeout=seconds)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return len(ended)


def memory(pid: int) -> tuple[float, float]:
    """What a process has in memory now, and the most that it ever had, in MiB."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return float(lines["VmRSS"].split()[0]) / 1024, float(lines["VmHWM"].split()[0]) / 1024
