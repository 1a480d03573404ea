"""TLS of the gateway's ports: a renewed certificate is taken up by the next handshake, without a restart."""

import asyncio
import logging
import ssl
from pathlib import Path

import grpc
from prometheus_client import Gauge

from nimble_coder.gateway.access.certificate import valid_until
from nimble_coder.gateway.access.file_version import version_of

logger = logging.getLogger(__name__)

SECONDS_BETWEEN = 5.0


class Tls:
    """Certificate, key and, for mTLS, the authorities of the clients."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None, ends: Gauge) -> None:
        """`ends` is told when the certificate does."""
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._ends = ends
        self._served = self._asked = self._version()
        ends.set(valid_until(certificate).timestamp())

    async def watch(self, context: ssl.SSLContext) -> None:
        """Keeps the HTTP port's context at what the files hold, until it is cancelled.

        An authority that is taken out of its file stays trusted there until the next start.
        """
        while True:
            await asyncio.sleep(SECONDS_BETWEEN)
            version = self._version()
            if version == self._served:
                continue
            self._served = version
            try:
                # Both are tried first: a context whose key has failed to load is left with half of the pair.
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
                if self._client_ca:
                    context.load_verify_locations(self._client_ca)
                context.load_cert_chain(self._certificate, self._key)
                ends = valid_until(self._certificate)
            except (OSError, ValueError) as error:  # `ssl.SSLError` is an `OSError`; half of a pair has been written
                logger.warning("the renewed certificate cannot be used, the old one stays: %s", error)
                continue
            self._ends.set(ends.timestamp())
            logger.info("a renewed certificate is served, valid until %s", ends.isoformat())

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Of the gRPC port, which asks at every handshake; with a client CA, clients must show a certificate."""
        configuration = self._configuration()
        return grpc.dynamic_ssl_server_credentials(configuration, self._renewed, self._client_ca is not None)

    def _renewed(self) -> object | None:
        version = self._version()
        if version == self._asked:
            return None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            configuration = self._configuration()
        except OSError:
            return None  # half of a pair has been written: the old one stays
        self._asked = version
        return configuration

    def _configuration(self) -> object:
        pair = (self._key.read_bytes(), self._certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration(
            [pair], self._client_ca.read_bytes() if self._client_ca else None
        )

    def _version(self) -> tuple[tuple[int, ...], ...]:
        return version_of(self._certificate, self._key, self._client_ca)
