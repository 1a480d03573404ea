"""TLS of the gateway's ports: what is renewed holds from the next handshake on, without a restart."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
from prometheus_client import Gauge

from nimble_coder.gateway.access.certificate import check_valid, load_pair, valid_until
from nimble_coder.gateway.access.file_version import version_of

logger = logging.getLogger(__name__)

SECONDS_BETWEEN = 5.0
Chooser = Callable[[ssl.SSLObject, str | None, ssl.SSLContext], int | None]


class Tls:
    """Certificate, key and, for mTLS, the authorities of the clients."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None, ends: Gauge, unusable: Gauge) -> None:
        """`ends` is told when the certificate does; `unusable` is 1 while the files cannot be used."""
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._ends, self._unusable = ends, unusable
        self._served = self._version()
        self._fault: tuple[object, str] | None = None
        """What cannot be used, by the files' version, and why."""
        self._newest = self._given = self._configuration()
        """What the gRPC port is to show, and what it has last been given."""
        ends.set(valid_until(certificate).timestamp())

    async def watch(self, context: ssl.SSLContext) -> None:
        """Keeps both ports at what the files hold, until it is cancelled: connections of HTTP begin with `context`.

        A handshake gets a context made anew: to one that is in use an authority can be added, but none taken away.
        """
        if self._client_ca:  # a session that is resumed shows no certificate
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        while True:
            await asyncio.sleep(SECONDS_BETWEEN)
            self.renew(context)

    def renew(self, context: ssl.SSLContext) -> None:
        """Has both ports show what the files hold, where it can be used."""
        version = self._version()
        if version == self._served:
            self._mend()  # where others were there, and are no more
            return
        try:
            renewed, configuration, ends = self._context(), self._configuration(), valid_until(self._certificate)
            check_valid(self._certificate)
        except (OSError, ValueError) as error:  # `ssl.SSLError` is an `OSError`; half of a pair has been written
            self._refuse(version, str(error))  # and tried again: the fault may be of the machine, or the clock's
            return
        if self._version() != version:
            return  # they are being written
        self._served, self._newest = version, configuration
        context.sni_callback = self._handing_out(renewed)
        self._mend()
        self._ends.set(ends.timestamp())
        logger.info("renewed certificates are served and asked for, valid until %s", ends.isoformat())

    def _refuse(self, version: object, reason: str) -> None:
        """Says it once, however often it is tried."""
        if self._fault == (version, reason):
            return
        self._fault = version, reason
        self._unusable.set(1)
        logger.warning("the renewed certificates cannot be used, the old ones stay: %s", reason)

    def _mend(self) -> None:
        self._fault = None
        self._unusable.set(0)

    def _handing_out(self, renewed: ssl.SSLContext) -> Chooser:
        """OpenSSL asks at every handshake, whether the client names a server or not."""

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
            connection.context = renewed
            # A session of TLS 1.2 that began under other authorities; without it the client shows its certificate.
            is_resumed = self._client_ca is not None and connection.session_reused
            return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE if is_resumed else None

        return choose

    def _context(self) -> ssl.SSLContext:
        """What the files hold; raises `OSError` and `ValueError` where they do not belong together or are none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_pair(context, self._certificate, self._key)
        if self._client_ca:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Of the gRPC port, which asks at every handshake; with a client CA, clients must show a certificate."""
        return grpc.dynamic_ssl_server_credentials(self._given, self._to_give, self._client_ca is not None)

    def _to_give(self) -> object | None:
        """What has been renewed since gRPC, in a thread of its own, asked before."""
        newest = self._newest
        if newest is self._given:
            return None
        self._given = newest
        return newest

    def _configuration(self) -> object:
        pair = (self._key.read_bytes(), self._certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration(
            [pair], self._client_ca.read_bytes() if self._client_ca else None
        )

    def _version(self) -> tuple[tuple[int, ...], ...]:
        return version_of(self._certificate, self._key, self._client_ca)
