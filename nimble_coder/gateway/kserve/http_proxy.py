"""KServe v2 over HTTP: `/v2/*` passed to Triton, what would harm others refused."""

import asyncio
import re
from contextlib import aclosing
from string import punctuation
from urllib.parse import quote, urlsplit

import httpcore
import msgspec
from msgspec import Struct

from nimble_coder.gateway.access.limits import draining, engine_lost
from nimble_coder.gateway.answers.bodies.management import Live, Ready
from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.errors import ApiError, from_triton
from nimble_coder.gateway.exchange import EVENT_STREAM, JSON_LENGTH, Exchange
from nimble_coder.gateway.kserve.calls import Calls
from nimble_coder.gateway.kserve.guard import KServeGuard, split_body
from nimble_coder.gateway.kserve.json_bodies import read_generate, read_infer, write_generate, write_infer
from nimble_coder.gateway.kserve.unary import STREAMING, UnaryInference
from nimble_coder.gateway.service import Service
from nimble_coder.processes.triton_stack import largest_body

GENERATING = re.compile(r"models/([^/]+)(?:/versions/([^/]+))?/(infer|generate|generate_stream)")
READING = re.compile(
    r"(?:|health/(?:live|ready)|models/[^/]+(?:/versions/[^/]+)?(?:|/ready|/config|/stats)|models/stats)"
)
READY = "health/ready"
HEALTH: dict[str, Struct] = {"health/live": Live(live=True), READY: Ready(ready=True)}
"""What `kserve`'s client reads where Triton says nothing, and Triton's own looks at the status alone."""
KEPT = ("content-type", "accept", JSON_LENGTH, "accept-encoding")
RETURNED = (b"inference-header-content-length", b"content-encoding")
FAILURES = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)
METRICS_SECONDS = 2.0


class TritonHttp:
    """Triton's HTTP and metrics ports, which listen on loopback only."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._guard = KServeGuard(service)
        self._calls = Calls(service)
        self._single = UnaryInference(service, self._guard, self._calls)
        self._address = urlsplit(service.settings.triton_http)
        self._largest_body = min(service.settings.max_body_bytes, largest_body())
        # Not httpx, which lies above it: the process would import rich and Pygments for its command line.
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=None, max_keepalive_connections=64, keepalive_expiry=5.0
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._calls.close()
        await self._pool.aclose()

    async def metrics(self) -> bytes:
        """Triton's metrics page; empty while Triton does not answer, so that the gateway's own are never missing."""
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), METRICS_SECONDS)
        try:
            answer = await self._pool.request(
                "GET", self._service.settings.triton_metrics, extensions={"timeout": timeout}
            )
        except FAILURES:
            return b""
        return answer.content if answer.status == 200 else b""

    async def forward(self, exchange: Exchange) -> None:
        """Passes a request on and its answer back as it comes; hangs up on Triton when the client does."""
        path = exchange.path[len("/v2/") :]
        generating = exchange.method == "POST" and GENERATING.fullmatch(path)
        if not generating and not (exchange.is_reading and READING.fullmatch(path)):
            self._service.keys.check_admin(exchange.header("authorization"), exchange.header("x-api-key"))
        if path == READY and not self._service.admission.takes_work:
            raise draining() if self._service.admission.draining else engine_lost()
        body = await exchange.body(self._largest_body)
        if generating:
            model, version, verb = generating.groups()
            if model in STREAMING:
                check_version(version)
                answer = self._stream if verb == "generate_stream" else self._answer
                await answer(exchange, (model, version, verb), body)
                return
            header_length, client = exchange.header(JSON_LENGTH), exchange.client
            checked = await aside(len(body), self._guard.check_http, model, verb, body, header_length, client)
            with self._service.generating(client, checked.generations):
                if verb == "generate_stream":
                    async with exchange.kept_alive(EVENT_STREAM, []):
                        await self._pass(exchange, checked.content, checked.header_length)
                else:
                    await self._pass(exchange, checked.content, checked.header_length)
        else:
            await self._pass(exchange, body)

    async def _answer(self, exchange: Exchange, target: tuple[str, str | None, str], body: bytes) -> None:
        """Answers a single inference on a model that streams."""
        model, version, verb = target
        header_length = exchange.header(JSON_LENGTH)
        content, binary = await aside(len(body), split_body, body, header_length)
        if verb == "infer":
            request = await aside(len(body), read_infer, content, binary)
        else:
            request = await aside(len(body), read_generate, content, self._single.config(model))
        request.model_name, request.model_version = model, version or ""
        async with exchange.connected():
            response = await self._single.answer(request, exchange.client)
        if verb == "generate":
            await exchange.respond(200, write_generate(response))
            return
        answer, json_length = write_infer(response, content)
        if json_length is None:
            await exchange.respond(200, answer)
        else:
            lengths = [(b"inference-header-content-length", str(json_length).encode())]
            await exchange.respond(200, answer, b"application/octet-stream", lengths)

    async def _stream(self, exchange: Exchange, target: tuple[str, str | None, str], body: bytes) -> None:
        """Answers a `generate_stream` of a model that streams."""
        model, version, _ = target
        content, _ = await aside(len(body), split_body, body, exchange.header(JSON_LENGTH))
        request = await aside(len(body), read_generate, content, self._single.config(model))
        request.model_name, request.model_version = model, version or ""
        generations = await aside(len(body), self._guard.check_grpc, request, exchange.client)
        with self._service.generating(exchange.client, generations):
            async with (
                exchange.connected(),
                exchange.kept_alive(EVENT_STREAM, []),
                aclosing(self._calls.responses(request)) as answers,
            ):
                async for answer in answers:
                    if answer.error_message:
                        raise from_triton(answer.error_message)
                    if not exchange.status:
                        await exchange.start(200, EVENT_STREAM)
                    if answer.infer_response.outputs:
                        await exchange.write(b"data: " + write_generate(answer.infer_response) + b"\n\n")
            await exchange.write(b"", more=False)

    async def _pass(self, exchange: Exchange, body: bytes, header_length: int | None = None) -> None:
        headers = {name: value for name in KEPT if (value := exchange.header(name)) is not None}
        headers["host"] = self._address.netloc
        if header_length is not None:
            headers[JSON_LENGTH] = str(header_length)
        if body or not exchange.is_reading:
            headers["content-length"] = str(len(body))
        request = httpcore.Request(
            "GET" if exchange.is_reading else exchange.method,  # Triton knows no HEAD
            self._url(exchange.raw_target),
            headers=[(name, value.encode("latin-1")) for name, value in headers.items()],
            content=body,
        )
        async with exchange.connected():
            try:
                answer = await self._pool.handle_async_request(request)
            except FAILURES as error:
                text = f"Triton does not answer ({error}): send the request again"
                raise ApiError(503, text, "engine_unavailable", retry_after=1) from None
            try:
                if answer.status >= 400:
                    raise refusal(answer.status, await answer.aread())
                got = {name.lower(): value for name, value in answer.headers}
                if health := HEALTH.get(exchange.path.removeprefix("/v2/")):
                    await exchange.respond(200, msgspec.json.encode(health))
                    return
                if not exchange.status:  # a stream's head goes alone where Triton is silent
                    kept = [(name, got[name]) for name in RETURNED if name in got]
                    await exchange.start(answer.status, got.get(b"content-type", b"application/json"), kept)
                async for part in answer.aiter_stream():
                    await exchange.write(part)
                await exchange.write(b"", more=False)
            except FAILURES as error:
                text = f"Triton ended the answer early ({error}): send the request again"
                raise ApiError(503, text, "engine_unavailable", retry_after=1) from None
            finally:
                await asyncio.shield(answer.aclose())

    def _url(self, target: str) -> httpcore.URL:
        """Triton's, of a path and a query as they were sent; what is no part of a URL is written as one."""
        path = quote(target.encode("latin-1"), safe=punctuation)
        return httpcore.URL(scheme="http", host=self._address.hostname or "", port=self._address.port, target=path)


def check_version(version: str | None) -> None:
    """Raises `ApiError` for what is no version in a path: over HTTP Triton takes digits alone."""
    if version is not None and not (version.isascii() and version.isdecimal()):
        text = f"{version[:40]!r} is no version: versions are whole numbers above 0"
        raise ApiError(404, text, "model_not_found")


def refusal(status: int, body: bytes) -> ApiError:
    """What Triton answers where it refuses or fails; to it a wrong JSON type is an internal error, the refusal of a
    stream an event, and a model's full queue the mistake of who asks through another model."""
    try:
        text = msgspec.json.decode(body.removeprefix(b"data: "), type=dict[str, str])["error"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        text = body.decode("utf-8", "replace")
    known = from_triton(text)
    return known if status >= 500 or known.status == 429 else ApiError(status, text)
