"""A load generator for streamed answers that costs little itself: it counts events and looks at nothing else."""

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import cast

EVENT = b"data: "


@dataclass
class StreamResult:
    """One streamed answer. Times are in seconds."""

    first: float = 0.0
    """From sending the request to the first event."""
    events: int = 0
    reads: int = 0
    """Pieces in which the answer arrived."""
    status: int = 0


@dataclass
class LoadResult:
    """A run of several streams at once."""

    seconds: float
    cpu_seconds: float
    """The load generator's own."""
    streams: list[StreamResult] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return sum(stream.status != 200 or not stream.events for stream in self.streams)

    @property
    def reads(self) -> int:
        return sum(stream.reads for stream in self.streams)

    @property
    def median_first(self) -> float:
        return statistics.median(stream.first for stream in self.streams)


class Reader(asyncio.Protocol):
    """One connection with one request; the server is asked to close it at the end."""

    def __init__(self, request: bytes, done: "asyncio.Future[StreamResult]") -> None:
        self._request, self._done = request, done
        self._result = StreamResult()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._started = time.perf_counter()
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        result = self._result
        if not result.status:
            result.status = int(data[9:12])
        count = data.count(EVENT)
        if count and not result.events:
            result.first = time.perf_counter() - self._started
        result.events += count
        result.reads += 1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        if not self._done.done():
            self._done.set_result(self._result)


async def load(host: str, port: int, path: str, body: dict[str, object], streams: int) -> LoadResult:
    """Sends the body `streams` times at once and reads all answers to their ends."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
    loop = asyncio.get_running_loop()
    started, cpu = time.perf_counter(), time.process_time()
    waiting = [loop.create_future() for _ in range(streams)]
    for done in waiting:
        await loop.create_connection(lambda done=done: Reader(request, done), host, port)  # type: ignore[misc]
    results = await asyncio.gather(*waiting)
    return LoadResult(time.perf_counter() - started, time.process_time() - cpu, results)
