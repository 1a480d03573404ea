"""KServe v2 over gRPC: passed to Triton, with the same keys, limits and guard as the HTTP side.

Bytes are passed on as they come; only requests that run the model are looked into.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from nimble_coder.contract.refusals import ENGINE_LOST
from nimble_coder.gateway.access.limits import draining
from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.errors import ApiError, from_triton
from nimble_coder.gateway.exchange import BODY_SECONDS, READERS
from nimble_coder.gateway.kserve.calls import Calls
from nimble_coder.gateway.kserve.guard import KServeGuard
from nimble_coder.gateway.kserve.reflection import METHODS, Reflection
from nimble_coder.gateway.kserve.relay import Relay, read_request
from nimble_coder.gateway.kserve.slots import WITH_UNREAD, Context, Slots
from nimble_coder.gateway.kserve.unary import STREAMING, UnaryInference
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.telemetry.tracing import Attributes
from nimble_coder.gateway.upstream.grpc_channel import grpc_channel
from nimble_coder.processes.open_files import limit
from nimble_coder.processes.ports import in_url

PREFIX = "/inference.GRPCInferenceService/"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
PROBES = {"ServerLive", "ServerReady", "ModelReady", HEALTH_CHECK}
NOT_READY = {"ServerReady": b"", HEALTH_CHECK: b"\x08\x02"}
"""Answers in protobuf: `ready` is false, and the status is NOT_SERVING."""
READING = {
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
}
INFER, STREAM = "ModelInfer", "ModelStreamInfer"
REFLECTION = "ServerReflectionInfo"
WITHOUT_MESSAGE = {"ServerLive", "ServerReady", HEALTH_CHECK}
"""Triton looks at nothing in their messages, so nothing of them is read: who calls needs no key."""
BOUNDS = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_concurrent_streams", 256),  # of one connection; a client waits by itself
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.server_handshake_timeout_ms", 60_000),
    ("grpc.keepalive_time_ms", 60_000),  # asks whether a silent client is still there
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.bdp_probe", 0),  # it would let megabytes come that nobody has asked for
    ("grpc.tcp_receive_buffer_size", 32_768),  # else gRPC (1.85) reads ever larger pieces of who sends without end
)
OF_FILES, MOST_CONNECTIONS = 8, 1 << 20
"""One in so many of the files that this process may open is for a connection here; and the most in any case."""
PROBING_READERS, PROBES_WAITING, PROBE_SECONDS = 1, 32, 1.0
"""Of callers who need no key: messages that are read at once, each of which may be as large as `max_body_bytes`; calls
that may wait for that; and how long such a message may take."""
BY_TEXT = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED)
"""Triton's statuses of an inference that say less than their texts do."""
Forward = Callable[[bytes], Awaitable[bytes]]
Handle = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]


class KServeProxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A gRPC server in front of Triton's, in this process's event loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._guard = KServeGuard(service)
        self._triton = grpc_channel(service.settings)
        self._calls = Calls(service)
        self._single = UnaryInference(service, self._guard, self._calls)
        self._reflection = Reflection()
        self._relays: set[Relay] = set()
        self._slots = Slots()
        self._reading, self._probing = asyncio.Semaphore(READERS), asyncio.Semaphore(PROBING_READERS)
        self._asked: dict[str, asyncio.Future[bytes]] = {}
        """Triton's answers that are on their way, by the probe."""
        self._probes = 0

    async def start(self) -> grpc.aio.Server:
        """Listens on the configured port, with TLS where there is a certificate; raises `OSError`."""
        settings = self._service.settings
        options = [("grpc.max_receive_message_length", settings.max_body_bytes), *BOUNDS]
        most = min(limit() // OF_FILES, MOST_CONNECTIONS)
        options.append(("grpc.max_allowed_incoming_connections", most))
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=WITH_UNREAD)
        server.add_generic_rpc_handlers([self])
        address = f"{in_url(settings.host)}:{settings.grpc_port}"
        try:
            if self._service.tls:
                server.add_secure_port(address, self._service.tls.grpc_credentials())
            else:
                server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: {error}") from None
        await server.start()
        return server

    def drain(self) -> None:
        """Ends the streams on which nothing runs; the others end themselves once that is so."""
        for relay in self._relays:
            relay.end_if_idle()

    async def close(self) -> None:
        """Ends the connections to Triton."""
        await self._calls.close()
        await self._triton.close()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call, raw bytes on both sides; None for another service's."""
        method = str(details.method)
        if method in METHODS:
            return grpc.stream_stream_rpc_method_handler(self._bounded(REFLECTION, self._reflect))
        name = method.removeprefix(PREFIX)
        if name == method != HEALTH_CHECK:
            return None
        # Calls with one message are streams here too: gRPC would read the message before it asked who sends it.
        handle = self._stream if name == STREAM else self._unary(name, method)
        return grpc.stream_stream_rpc_method_handler(self._bounded(name, handle))

    def _bounded(self, name: str, handle: Handle) -> Callable[[AsyncIterator[bytes], Any], Awaitable[None]]:
        async def bounded(messages: AsyncIterator[bytes], given: Any) -> None:
            context = Context(given)
            if self._slots.are_taken:
                text = f"{self._slots.taken} calls are running: try again shortly"
                await self._refuse(name, context, ApiError(429, text, "too_many_requests"), time.time_ns())
            with self._slots.one(context):
                await handle(messages, context)

        return bounded

    def _check_caller(self, name: str, context: Context) -> str:
        """The caller's name for the limits; raises `ApiError` for one who may not do this, or has too many calls."""
        if name in PROBES:
            return ""
        metadata = metadata_of(context)
        authorization, x_api_key = metadata.get("authorization"), metadata.get("x-api-key")
        client = self._service.keys.check(authorization, x_api_key) or str(context.peer()).rsplit(":", 1)[0]
        if name not in (INFER, STREAM, REFLECTION, *READING):
            self._service.keys.check_admin(authorization, x_api_key)
        if self._service.keys.are_several:
            self._slots.belong(context, client)
        return client

    def _unary(self, name: str, method: str) -> Handle:
        forward = self._triton.unary_unary(method)

        async def handle(messages: AsyncIterator[bytes], context: Context) -> None:
            started = time.time_ns()
            try:
                client = self._check_caller(name, context)
                message = await self._read(name, messages)
                if name == INFER:
                    self._service.rate.check(client)
                    answer = await self._infer(forward, message, client)
                elif name in NOT_READY and not self._service.admission.takes_work:
                    answer = NOT_READY[name]
                else:
                    check_message(name, message)
                    asked = self._ask(name, forward) if name in WITHOUT_MESSAGE else self._calls.whole(forward(message))
                    answer = await asked
            except (ApiError, grpc.aio.AioRpcError) as error:
                await self._refuse(name, context, error, started)
            with self._slots.writing(context):
                await context.write(bytes(answer))
            self._count(name, grpc.StatusCode.OK, context, started)

        return handle

    async def _ask(self, name: str, forward: Forward) -> bytes:
        """Triton's answer to a probe. Whoever asks while one is on its way shares it: a crowd that needs no key is
        answered at once, and what it sent meanwhile is not kept long."""
        answer = self._asked.get(name)
        if answer is None:
            answer = self._asked[name] = asyncio.ensure_future(forward(b""))
            answer.add_done_callback(lambda _: self._asked.pop(name))
        return await asyncio.shield(answer)

    async def _read(self, name: str, messages: AsyncIterator[bytes]) -> bytes:
        """The message of a call that has one; raises `ApiError` where it does not come."""
        if name in WITHOUT_MESSAGE:
            return b""
        is_probe = name in PROBES
        if is_probe and self._probes >= PROBES_WAITING:
            raise ApiError(429, f"{self._probes} probes are waiting: try again shortly", "too_many_requests")
        self._probes += is_probe
        seconds = PROBE_SECONDS if is_probe else BODY_SECONDS
        try:
            async with self._probing if is_probe else self._reading:
                return await asyncio.wait_for(anext(messages), seconds)
        except StopAsyncIteration:
            raise ApiError(400, "the call has no message: send one", "invalid_message") from None
        except TimeoutError:
            text = f"the message has not arrived in {seconds:.0f} s: send the request again"
            raise ApiError(408, text, "request_timeout") from None
        finally:
            self._probes -= is_probe

    async def _infer(self, forward: Forward, message: bytes, client: str) -> bytes:
        request = read_request(message)
        if request.model_name in STREAMING:
            answer: bytes = (await self._single.answer(request, client)).SerializeToString()
            return answer
        generations = await aside(len(message), self._guard.check_grpc, request, client)

        async def run() -> bytes:
            with self._service.admission.admit(client, generations):
                return await forward(request.SerializeToString())

        try:
            return await self._calls.whole(run())
        except asyncio.CancelledError:
            self._service.metrics.cancelled.inc(generations)
            raise
        except grpc.aio.AioRpcError as error:
            if error.code() in BY_TEXT:
                raise from_triton(error.details() or "") from None
            raise

    async def _stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Many requests on one stream; one that is refused is answered on it and harms no other."""
        started = time.time_ns()
        try:
            client = self._check_caller(STREAM, context)
            if self._service.admission.draining:
                raise draining()
            upstream = self._triton.stream_stream(PREFIX + STREAM)()
            relay = Relay(self._service, self._guard, self._calls, client, upstream, context)
            self._relays.add(relay)
            try:
                with self._service.admission.abandonable():
                    await relay.run(requests)
            except (grpc.aio.InternalError, asyncio.CancelledError) as gone:  # the client has
                self._service.metrics.cancelled.inc(relay.unfinished)
                if isinstance(gone, asyncio.CancelledError):
                    raise
            finally:
                self._relays.discard(relay)
            self._count(STREAM, grpc.StatusCode.OK, context, started)
        except (ApiError, grpc.aio.AioRpcError) as error:
            await self._refuse(STREAM, context, error, started)

    async def _reflect(self, messages: AsyncIterator[bytes], context: Context) -> None:
        started = time.time_ns()
        try:
            self._check_caller(REFLECTION, context)
            await self._reflection.answer_all(messages, context)
        except ApiError as error:
            await self._refuse(REFLECTION, context, error, started)
        self._count(REFLECTION, grpc.StatusCode.OK, context, started)

    async def _refuse(
        self, name: str, context: Context, error: ApiError | grpc.aio.AioRpcError, started: int
    ) -> NoReturn:
        status = error.grpc_status if isinstance(error, ApiError) else error.code()
        self._count(name, status, context, started)
        kind = error.kind if isinstance(error, ApiError) else f"triton_{status.name.lower()}"
        if kind == ENGINE_LOST:
            self._service.admission.doubted.set()
        self._service.metrics.errors.labels(kind).inc()
        text = str(error) if isinstance(error, ApiError) else error.details() or ""
        if not isinstance(error, ApiError) and status is grpc.StatusCode.UNAVAILABLE:
            text = f"Triton is not available ({text}): send the request again"
        with self._slots.writing(context):  # what was written before has to be read first
            await context.abort(status, text)

    def _count(self, name: str, status: grpc.StatusCode, context: Context, started: int) -> None:
        """A call that has ended, in the metrics and, where it ran the model, in the trace."""
        method = name if name in {*READING, *PROBES, INFER, STREAM, REFLECTION} else "administrative"
        self._service.metrics.grpc_requests.labels(method, status.name).inc()
        if name in (INFER, STREAM):
            attributes: Attributes = {
                "rpc.system": "grpc",
                "rpc.method": name,
                "rpc.grpc.status_code": int(status.value[0]),
            }
            failed = status in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)
            self._service.tracing.record(PREFIX[1:] + name, started, metadata_of(context), attributes, failed)


def metadata_of(context: Context) -> dict[str, str]:
    """What a call says beside its messages."""
    return {str(key): str(value) for key, value in context.invocation_metadata() or ()}


def check_message(name: str, message: bytes) -> None:
    """Raises `ApiError` for bytes that are no such request: Triton would call that an internal error."""
    if name in READING:
        try:
            getattr(service_pb2, f"{name}Request").FromString(message)
        except DecodeError:
            raise ApiError(400, f"the message is not a {name}Request", "invalid_message") from None
