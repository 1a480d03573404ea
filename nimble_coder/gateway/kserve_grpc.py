"""KServe v2 over gRPC: passed to Triton, with the same keys, limits and guard as the HTTP side.

Bytes are passed on as they come; only requests that run the model are looked into.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from nimble_coder.gateway.errors import ApiError, from_triton
from nimble_coder.gateway.kserve_guard import KServeGuard
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.tracing import Attributes

PREFIX = "/inference.GRPCInferenceService/"
PROBES = {"ServerLive", "ServerReady", "ModelReady"}
READING = {*PROBES, "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics"}
INFER, STREAM = "ModelInfer", "ModelStreamInfer"
UNLIMITED = -1
BY_TEXT = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED)
"""Triton's statuses of an inference that say less than their texts do."""
STUB_DIED = b"is not healthy"
"""In Triton's words for the death of a Python backend's process."""
Forward = Callable[[bytes], Awaitable[bytes]]
Context = Any
"""`grpc.aio.ServicerContext`; grpcio has no types."""


class KServeProxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A gRPC server in front of Triton's, in this process's event loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._guard = KServeGuard(service)
        options = [("grpc.max_receive_message_length", UNLIMITED), ("grpc.max_send_message_length", UNLIMITED)]
        self._triton = grpc.aio.insecure_channel(service.settings.triton_grpc, options)

    async def start(self) -> grpc.aio.Server:
        """Listens on the configured port, with TLS where there is a certificate; raises `OSError`."""
        settings = self._service.settings
        options = [("grpc.max_receive_message_length", settings.max_body_bytes), ("grpc.so_reuseport", 1)]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers([self])
        address = f"{settings.host}:{settings.grpc_port}"
        try:
            if settings.tls_certificate and settings.tls_key:
                tls = credentials(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
                server.add_secure_port(address, tls)
            else:
                server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: {error}") from None
        await server.start()
        return server

    async def close(self) -> None:
        """Ends the connection to Triton."""
        await self._triton.close()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call, raw bytes on both sides; None for another service's."""
        method = str(details.method)
        if not method.startswith(PREFIX):
            return None
        name = method[len(PREFIX) :]
        if name == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._unary(name, method))

    def _check_caller(self, name: str, context: Context) -> str:
        """The caller's name for the rate limit; raises `ApiError` for one who may not do this."""
        if name in PROBES:
            return ""
        metadata = metadata_of(context)
        authorization, x_api_key = metadata.get("authorization"), metadata.get("x-api-key")
        client = self._service.keys.check(authorization, x_api_key) or str(context.peer()).rsplit(":", 1)[0]
        if name not in (INFER, STREAM, *READING):
            self._service.keys.check_admin(authorization, x_api_key)
        return client

    def _unary(self, name: str, method: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        forward = self._triton.unary_unary(method)

        async def handle(message: bytes, context: Context) -> bytes:
            started = time.time_ns()
            try:
                client = self._check_caller(name, context)
                if name == INFER:
                    self._service.rate.check(client)
                    with self._service.admission.admit():
                        answer = await self._infer(forward, message)
                else:
                    check_message(name, message)
                    answer = await forward(message)
            except (ApiError, grpc.aio.AioRpcError) as error:
                await self._refuse(name, context, error, started)
            self._count(name, grpc.StatusCode.OK, context, started)
            return bytes(answer)

        return handle

    async def _infer(self, forward: Forward, message: bytes) -> bytes:
        try:
            return await forward(self._guarded(message).SerializeToString())
        except grpc.aio.AioRpcError as error:
            if error.code() in BY_TEXT:
                raise from_triton(error.details() or "") from None
            raise

    async def _stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Many requests on one stream; one that is refused is answered on it and harms no other."""
        started = time.time_ns()
        try:
            client = self._check_caller(STREAM, context)
            with self._service.admission.admit():
                await self._relay(requests, context, client)
            self._count(STREAM, grpc.StatusCode.OK, context, started)
        except (ApiError, grpc.aio.AioRpcError) as error:
            await self._refuse(STREAM, context, error, started)

    async def _relay(self, requests: AsyncIterator[bytes], context: Context, client: str) -> None:
        upstream = self._triton.stream_stream(PREFIX + STREAM)()
        writing = asyncio.Lock()  # gRPC takes one message at a time, and two tasks have some
        feeder = asyncio.create_task(self._feed(requests, upstream, context, writing, client))
        try:
            async for message in upstream:
                if len(message) < 256 and STUB_DIED in message:
                    self._service.admission.abandon()
                async with writing:
                    await context.write(message)
        finally:
            feeder.cancel()
            upstream.cancel()  # the engine hears of a client that goes away

    async def _feed(
        self, requests: AsyncIterator[bytes], upstream: Any, context: Context, writing: asyncio.Lock, client: str
    ) -> None:
        async for message in requests:
            try:
                self._service.rate.check(client)
                request = self._guarded(message)
            except ApiError as error:
                self._service.metrics.errors.labels(error.kind).inc()
                answer = service_pb2.ModelStreamInferResponse(error_message=str(error))
                async with writing:
                    await context.write(answer.SerializeToString())
            else:
                await upstream.write(request.SerializeToString())
        await upstream.done_writing()

    def _guarded(self, message: bytes) -> service_pb2.ModelInferRequest:
        """The request as Triton may see it; raises `ApiError`."""
        try:
            request = service_pb2.ModelInferRequest.FromString(message)
        except DecodeError:
            raise ApiError(400, "the message is not a ModelInferRequest", "invalid_message") from None
        self._guard.check_grpc(request)
        return request

    async def _refuse(
        self, name: str, context: Context, error: ApiError | grpc.aio.AioRpcError, started: int
    ) -> NoReturn:
        status = error.grpc_status if isinstance(error, ApiError) else error.code()
        self._count(name, status, context, started)
        kind = error.kind if isinstance(error, ApiError) else f"triton_{status.name.lower()}"
        self._service.metrics.errors.labels(kind).inc()
        await context.abort(status, str(error) if isinstance(error, ApiError) else error.details() or "")
        raise AssertionError("abort raises")

    def _count(self, name: str, status: grpc.StatusCode, context: Context, started: int) -> None:
        """A call that has ended, in the metrics and, where it ran the model, in the trace."""
        method = name if name in READING or name in (INFER, STREAM) else "administrative"
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


def credentials(certificate: Path, key: Path, client_ca: Path | None = None) -> grpc.ServerCredentials:
    """TLS of the gRPC port; with a client CA, clients must show a certificate."""
    pair = (key.read_bytes(), certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], client_ca.read_bytes() if client_ca else None, client_ca is not None)
