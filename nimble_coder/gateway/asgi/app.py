"""The ASGI application: finds a request's route, checks who calls, and turns what goes wrong into an answer."""

import asyncio
import logging
import time
from contextlib import suppress

from nimble_coder.contract.refusals import ENGINE_LOST
from nimble_coder.gateway.asgi.route import Route, Router
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import READERS, ClientGone, Exchange, Headers, Receive, Scope, Send
from nimble_coder.gateway.front import Front

logger = logging.getLogger(__name__)
access = logging.getLogger("nimble_coder.gateway.access")


class App:
    """The gateway's HTTP side."""

    def __init__(self, front: Front, router: Router) -> None:
        self._front = front
        self._router = router
        self._readers = asyncio.Semaphore(READERS)
        self._origins = front.service.settings.origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._refuse_other(scope, receive, send)
            return
        exchange = Exchange(without_slash(scope), receive, send, self._readers)
        started = time.time_ns()
        route: Route | None = None
        try:
            exchange.extra_headers = self._cors(exchange)
            route, exchange.parameter = self._router.find(exchange.method, exchange.path)
            await self._run(route, exchange)
        except ApiError as error:
            await self._refuse(exchange, error)
        except RecursionError:  # JSON that could just be read and has to be written again from deeper in the stack
            await self._refuse(exchange, ApiError(400, "the body is nested too deeply", "invalid_json"))
        except ClientGone:
            exchange.status = exchange.status or 499
        except asyncio.CancelledError:
            raise
        except Exception:
            # The boundary of the process: the client gets an answer, the log the reason, no other request is harmed.
            logger.exception("request %s failed", exchange.request_id)
            self._front.service.metrics.errors.labels("internal").inc()
            await exchange.fail(
                ApiError(500, f"internal error; the log has it under {exchange.request_id}", "internal")
            )
        finally:
            name = route.path if route else "none"
            self._front.service.metrics.requests.labels(name, str(exchange.status)).inc()
            took = (time.time_ns() - started) / 1e6
            # Probes ask all day, and twenty times a second while a service starts.
            level = logging.DEBUG if route and route.is_open else logging.INFO
            access.log(level, "%s %s %d %.1f ms %s", exchange.method, name, exchange.status, took, exchange.request_id)
            if route and route.is_limited:
                self._trace(route, exchange, started)

    async def _refuse(self, exchange: Exchange, error: ApiError) -> None:
        if error.code == ENGINE_LOST:
            self._front.service.admission.doubted.set()
        self._front.service.metrics.errors.labels(error.kind).inc()
        await exchange.fail(error)

    async def _run(self, route: Route, exchange: Exchange) -> None:
        if exchange.method == "OPTIONS":
            await exchange.respond(204, b"")
            return
        if not route.is_open:
            authorization, x_api_key = exchange.header("authorization"), exchange.header("x-api-key")
            name = self._front.service.keys.check(authorization, x_api_key)
            exchange.client = name or str((exchange.scope.get("client") or ("unknown",))[0])
            if route.is_limited:
                self._front.service.rate.check(exchange.client)
        await route.handle(self._front, exchange)

    def _trace(self, route: Route, exchange: Exchange, started: int) -> None:
        headers = {name: exchange.header(name) or "" for name in ("traceparent", "tracestate")}
        attributes = {
            "http.request.method": exchange.method,
            "http.route": route.path,
            "http.response.status_code": exchange.status,
            "nimble.request_id": exchange.request_id,
            **exchange.figures,
        }
        name = f"{exchange.method} {route.path}"
        self._front.service.tracing.record(name, started, headers, attributes, exchange.status >= 500)

    def _cors(self, exchange: Exchange) -> Headers:
        """Off unless origins are configured."""
        origin = exchange.header("origin")
        if not origin or not self._origins or not ("*" in self._origins or origin in self._origins):
            return []
        allowed = exchange.header("access-control-request-headers") or "authorization, content-type"
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"vary", b"origin"),
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-allow-headers", allowed.encode("latin-1")),
            (
                b"access-control-expose-headers",
                b"x-request-id, x-nimble-decoding, x-nimble-drafting, x-nimble-lookahead, x-nimble-draft-tokens, "
                b"x-nimble-ignored",
            ),
            (b"access-control-max-age", b"600"),
        ]

    async def _refuse_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Websockets are closed; the lifespan protocol is answered, since nothing has to be started for it."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        with suppress(asyncio.CancelledError):
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return


def without_slash(scope: Scope) -> Scope:
    """A path that ends with slashes means the one without them."""
    path, raw = scope["path"].rstrip("/"), scope.get("raw_path") or b""
    return scope if path == scope["path"] else {**scope, "path": path or "/", "raw_path": raw.rstrip(b"/") or b"/"}
