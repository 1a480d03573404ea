"""Ports that are chosen some seconds before somebody listens on them, and that nobody else may be given meanwhile."""

import random
import socket
import weakref
from contextlib import ExitStack

GIVEN_TO_NOBODY = range(20000, 30000)
"""Ports below those that Linux gives to connections (32768 to 60999), and below Kubernetes' NodePorts."""
LOOPBACK = "127.0.0.1"


class HeldPorts:
    """Free ports of loopback, which no other process finds free as long as this lives.

    Each has a socket that does not listen. It is bound without sharing, so that two processes that choose at once
    cannot have the same port. Then it shares with whoever shares too: with SO_REUSEADDR, as Triton listens, or with
    SO_REUSEPORT, as gateways do.
    """

    def __init__(self, count: int) -> None:
        """Raises `OSError` where so many cannot be had."""
        self.ports: list[int] = []
        sockets = ExitStack()
        weakref.finalize(self, sockets.close)
        candidates = random.sample(GIVEN_TO_NOBODY, len(GIVEN_TO_NOBODY))
        while len(self.ports) < count:
            if not candidates:
                raise OSError(f"fewer than {count} ports from {GIVEN_TO_NOBODY[0]} to {GIVEN_TO_NOBODY[-1]} are free")
            if (holder := hold(port := candidates.pop())) is not None:
                sockets.enter_context(holder)
                self.ports.append(port)


def hold(port: int) -> socket.socket | None:
    """A socket that keeps the port for whoever shares it; none where the port is taken."""
    holder = socket.socket()
    try:
        holder.bind((LOOPBACK, port))
    except OSError:
        holder.close()
        return None
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        check_listenable(LOOPBACK, port)
    except OSError:  # a system that asks for this before a socket is bound: then the port is free, and not held
        holder.close()
    return holder


def in_url(host: str) -> str:
    """A host as addresses with a port have it: one of IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def check_listenable(host: str, port: int) -> None:
    """Raises `OSError` where somebody listens, also one who would share the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
