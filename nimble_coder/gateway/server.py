"""The gateway's process: HTTP, gRPC and metrics on their ports until SIGTERM, then what runs may finish.

    NIMBLE_ARTIFACT=... NIMBLE_TRITON_GRPC_PORT=... python -m nimble_coder.gateway.server

Several of them may serve the same ports: the kernel spreads the connections.
"""

import asyncio
import gc
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
import uvloop

from build_engine.exit_codes import ExitCode
from nimble_coder.gateway.access.limits import draining
from nimble_coder.gateway.apis.routes import ROUTER
from nimble_coder.gateway.asgi.app import App
from nimble_coder.gateway.asgi.connection import ApiConnection, Connection
from nimble_coder.gateway.asgi.memory import give_back
from nimble_coder.gateway.asgi.tls_listener import TlsListener
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import METRICS_PORT, Exchange, Receive, Scope, Send
from nimble_coder.gateway.front import Front
from nimble_coder.gateway.health import EngineLostError, Health
from nimble_coder.gateway.kserve.grpc_proxy import KServeProxy
from nimble_coder.gateway.kserve.http_proxy import TritonHttp
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.settings import GatewaySettings
from nimble_coder.processes.gateway import ABANDON
from nimble_coder.processes.log import json_line
from nimble_coder.processes.ports import in_url

logger = logging.getLogger(__name__)

TOLD_SECONDS = 1.0
"""For the last event of every stream that is ended."""
RECEIVED = 32_768
"""Bytes of a connection that the kernel holds and we may get at once, before anyone has looked at a header of them; the
kernel doubles it."""


class HttpServer(uvicorn.Server):
    """A uvicorn server that leaves the process's signals alone: there are two here, and a gRPC server."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing is captured."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`; with TLS, connections are accepted here."""
        context = self.config.ssl
        await super().startup([] if context else sockets)
        if context:
            self.servers = [TlsListener(each, context, self._connection) for each in sockets or []]  # type: ignore[misc] # has what is used of one

    def _connection(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg] # as uvicorn makes it
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


class MetricsOnly:
    """What the metrics port offers: no API there, and so no keys and no TLS."""

    PATHS = ("/metrics", "/v1/metrics", "/v1/health/live", "/v1/health/ready")

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].rstrip("/") not in self.PATHS:
            text = f"this port has {', '.join(self.PATHS)} only"
            await Exchange(scope, receive, send).fail(ApiError(404, text, "unknown_path"))
            return
        await self._app({**scope, METRICS_PORT: True}, receive, send)


class Gateway:
    """One process's servers and what they share."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.service = Service(settings)
        triton = TritonHttp(self.service)
        self.front = Front(self.service, Health(self.service, triton), triton)
        self.app = App(self.front, ROUTER)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serves until `stop`; raises `OSError` where a port cannot be used, and `EngineLostError`."""
        s = self.settings
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)
        asyncio.get_running_loop().add_signal_handler(ABANDON, self.abandon)
        api_socket, metrics_socket = listen(s.host, s.http_port), listen(s.host, s.metrics_port)
        proxy = KServeProxy(self.service)
        grpc_server = await proxy.start()
        config = uvicorn_config(self.app, s, s.tls_certificate is not None)
        config.load()  # which makes the TLS context
        api = HttpServer(config)
        metrics = HttpServer(uvicorn_config(MetricsOnly(self.app), s, tls=False))
        serving = [asyncio.create_task(api.serve([api_socket])), asyncio.create_task(metrics.serve([metrics_socket]))]
        beside = [asyncio.create_task(give_back()), asyncio.create_task(self.front.health.watch(self.stop))]
        if self.service.tls and config.ssl:
            beside.append(asyncio.create_task(self.service.tls.watch(config.ssl)))
        # What has been loaded stays; the collector, which messages set off all the time, need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        logger.info(
            "HTTP on %s:%d, gRPC on %d, metrics on %d", in_url(s.host), s.http_port, s.grpc_port, s.metrics_port
        )
        await self._stop.wait()
        proxy.drain()
        await self._drain()
        for task in beside:
            task.cancel()
        api.should_exit = metrics.should_exit = True
        await grpc_server.stop(1)
        await asyncio.gather(*serving)
        await proxy.close()
        await self.front.triton.close()
        self.service.streams.close()
        self.service.tracing.close()
        if self.front.health.is_lost:
            raise EngineLostError(f"the engine's process has died; its log says why ({self.front.health.reason})")

    def stop(self) -> None:
        """Readiness goes false at once and new work is refused; what runs may finish."""
        self.service.admission.draining = True
        self._stop.set()

    def abandon(self) -> None:
        """What runs is told that it ends now."""
        self.stop()
        self.service.admission.abandon(draining())

    async def _drain(self) -> None:
        """Lets what runs finish; what has not in time is told so before its connection is closed."""
        await self._wait_until(lambda: not self.service.admission.own, self.settings.drain_seconds)
        self.service.admission.abandon(draining())
        await self._wait_until(lambda: self.service.admission.is_empty, TOLD_SECONDS)

    @staticmethod
    async def _wait_until(holds: Callable[[], bool], seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not holds() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)


def uvicorn_config(app: App | MetricsOnly, settings: GatewaySettings, tls: bool) -> uvicorn.Config:
    """Access lines are the application's own: uvicorn's would hold whole paths."""
    return uvicorn.Config(
        app,
        http=Connection if isinstance(app, MetricsOnly) else ApiConnection,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ssl_certfile=settings.tls_certificate if tls else None,
        ssl_keyfile=settings.tls_key if tls else None,
        ssl_ca_certs=str(settings.tls_client_ca) if tls and settings.tls_client_ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls and settings.tls_client_ca else ssl.CERT_NONE,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket that other workers may share; raises `OSError` naming the port."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)  # its connections inherit it
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"port {port} on {host} cannot be used: {error.strerror}") from None
    return listener


async def serve(settings: GatewaySettings) -> None:
    """A gateway from start to end, inside the running event loop."""
    await Gateway(settings).run()


class JsonFormatter(logging.Formatter):
    """A record as the line that `ProcessLog` passes on, with its logger and its exception."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        exception = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return json_line("gateway", record.levelname.lower(), record.getMessage(), logger=record.name, **exception)


def start_logging(settings: GatewaySettings) -> None:
    """Lines on standard error: this project's, at the level that was asked for."""
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if settings.jsonl_logging else plain)
    level = "debug" if settings.log_level == "trace" else settings.log_level
    logging.basicConfig(level=logging.WARNING, handlers=[handler])  # the libraries' lines hold paths and addresses
    logging.getLogger("nimble_coder").setLevel(level.upper())


def main() -> None:
    """Runs a gateway with the environment's settings; ends with one line, and with code 1 where it cannot start, 13
    where the engine is lost."""
    try:
        settings = GatewaySettings()  # type: ignore[call-arg] # the environment has it
        start_logging(settings)
        uvloop.install()
        asyncio.run(serve(settings))
    except EngineLostError as error:
        print(f"nimble-coder gateway: {error}", file=sys.stderr)
        raise SystemExit(ExitCode.TRITON) from None
    except (ValueError, OSError) as error:
        raise SystemExit(f"nimble-coder gateway: {error}") from None


if __name__ == "__main__":
    main()
