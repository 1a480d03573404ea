"""Accepts connections of which a TLS handshake is to come first: one that does not begin is an open file, too, and
uvicorn's own servers show a connection only when its handshake is over."""

import asyncio
import socket
import ssl
from collections.abc import Callable

from nimble_coder.gateway.asgi.connection import is_kept

BACKLOG, AT_ONCE = 2048, 64
"""Connections that the kernel completes before they are accepted, and those that are accepted at once."""
HANDSHAKE_SECONDS = 60.0
PAUSE_SECONDS = 0.1
"""Where the system has no file for a connection."""


class TlsListener:
    """What uvicorn needs of an `asyncio.Server`."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext, make: Callable[[], asyncio.Protocol]) -> None:
        """Begins to accept; `make` makes the protocol of a connection."""
        self._loop = asyncio.get_running_loop()
        self._listener, self._context, self._make = listener, context, make
        self._handshakes: set[asyncio.Future[object]] = set()
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Accepts no more."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())

    async def wait_closed(self) -> None:
        """See `asyncio.Server`: nothing has to be waited for."""

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._pause()
                return
            if is_kept(connection):
                connection.close()
            else:
                self._shake_hands(connection)

    def _pause(self) -> None:
        self.close()
        self._loop.call_later(PAUSE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _shake_hands(self, connection: socket.socket) -> None:
        shaking: asyncio.Future[object] = asyncio.ensure_future(
            self._loop.connect_accepted_socket(
                self._make, connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        )
        self._handshakes.add(shaking)
        shaking.add_done_callback(self._look_at)

    def _look_at(self, shaken: asyncio.Future[object]) -> None:
        """What fails is the client's: it has gone, or speaks something else."""
        self._handshakes.discard(shaken)
        if not shaken.cancelled():
            shaken.exception()
