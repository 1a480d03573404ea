"""Answers on the HTTP and the metrics port until the gateway does: alive, not ready, and why."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from nimble_coder.processes.triton import Addresses

LIVE = ("/v1/health/live", "/health/live", "/v2/health/live")
RETRY_AFTER = "10"
THREADS = 128
"""At once on a port: more connections are closed, since the service needs threads to start."""
SECONDS = 5.0
"""For a client to send, and then to read why it is refused."""


class StartPage:
    """A context manager: leaving it frees the ports, which gateways may share before (SO_REUSEPORT)."""

    def __init__(self, addresses: Addresses, reason: Callable[[], str], tls: ssl.SSLContext | None) -> None:
        self._addresses, self._reason, self._tls = addresses, reason, tls

    def __enter__(self) -> "StartPage":
        a = self._addresses
        self._servers = [PageServer((a.host, port), self._reason) for port in (a.http_port, a.metrics_port)]
        if self._tls:
            self._servers[0].socket = self._tls.wrap_socket(
                self._servers[0].socket, server_side=True, do_handshake_on_connect=False
            )
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stops answering; may be called twice."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []


class PageServer(ThreadingHTTPServer):
    """One of the two ports."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], reason: Callable[[], str]) -> None:
        self.reason = reason
        self._places = threading.Semaphore(THREADS)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, PageHandler)

    def server_bind(self) -> None:
        """Shares the port with the gateways."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """A thread for each, as long as there are not too many."""
        if not self._places.acquire(blocking=False):
            self.close_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the kernel gives none
            self._places.release()
            self.close_request(request)

    def process_request_thread(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """Runs in a thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Closes behind what is still sent: the kernel resets a connection that is closed with something unread, and
        its client loses the answer."""
        assert isinstance(request, socket.socket)  # noqa: S101 - this is TCP
        deadline = time.monotonic() + SECONDS
        with suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            while request.recv(65536) and time.monotonic() < deadline:
                pass
        self.close_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are nobody's fault."""


class PageHandler(BaseHTTPRequestHandler):
    """One connection, one answer: the next may be the gateway's."""

    server: PageServer
    timeout = SECONDS

    def answer(self) -> None:
        """Liveness is 200; all else is 503 with the reason."""
        if self.path.partition("?")[0] in LIVE:
            self.send(200, {"object": "health.response", "message": "Service is live."})
            return
        reason = self.server.reason()
        if "/health" in self.path:
            self.send(503, {"object": "health.response", "message": f"Service is not ready: {reason}"})
            return
        error = {"message": f"the service is starting: {reason}", "type": "service_unavailable_error"}
        self.send(503, {"error": {**error, "param": None, "code": "starting"}})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer  # noqa: N815 - http.server's names

    def send(self, status: int, content: object) -> None:
        """A whole answer as JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 503:
            self.send_header("Retry-After", RETRY_AFTER)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: probes come every few seconds."""
