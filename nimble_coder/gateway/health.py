"""Whether the service can really answer: a generation of one token, not a port that is open."""

import asyncio
import logging
from contextlib import aclosing

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.token_stream import Generation

logger = logging.getLogger(__name__)

SECONDS_BETWEEN = 0.5


class Health:
    """Ready after the first generation that works; from then on as long as Triton says so."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._generated = False
        self.reason = "the model is loading"
        """Why the service is not ready."""

    @property
    def is_ready(self) -> bool:
        return not self.reason and not self._service.admission.draining

    async def watch(self) -> None:
        """Keeps `reason` true until it is cancelled."""
        async with grpc.aio.insecure_channel(self._service.settings.triton_grpc) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while True:
                before = self.reason
                self.reason = await self._why_not(stub)
                if before != self.reason:
                    logger.info("not ready: %s", self.reason) if self.reason else logger.info("ready")
                await asyncio.sleep(SECONDS_BETWEEN)

    async def _why_not(self, stub: service_pb2_grpc.GRPCInferenceServiceStub) -> str:
        try:
            answer = await stub.ModelReady(service_pb2.ModelReadyRequest(name="tensorrt_llm"), timeout=5)
        except grpc.aio.AioRpcError as error:
            return f"Triton does not answer: {error.details()}"
        if not answer.ready:
            self._generated = False
            return "the model is loading"
        if not self._generated:
            return await self._generate()
        return ""

    async def _generate(self) -> str:
        ids = self._service.encoder.plain("def hello():\n    ")
        lookahead = self._service.limits.choose_lookahead(None, len(ids))
        generation = Generation(ids, 1, (), lookahead, streaming=False)
        try:
            await asyncio.wait_for(self._finish(generation), 60)
        except (ApiError, asyncio.TimeoutError) as error:
            return f"a generation failed: {str(error) or 'no answer in 60 s'}"
        self._generated = True
        return ""

    async def _finish(self, generation: Generation) -> None:
        async with aclosing(self._service.streams.generate(generation, "ready")) as steps:
            async for _ in steps:
                pass
