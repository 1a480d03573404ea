"""Whether the service can really answer: a generation of one token, not a port that is open."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from contextlib import aclosing, suppress

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from nimble_coder.contract.encoding import Generation
from nimble_coder.contract.refusals import ENGINE_LOST
from nimble_coder.contract.response import USUAL_DRAFTER
from nimble_coder.gateway.access.limits import engine_lost
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.hang import HangWatch
from nimble_coder.gateway.kserve.http_proxy import TritonHttp
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.upstream.grpc_channel import grpc_channel

logger = logging.getLogger(__name__)

SECONDS_BETWEEN = 0.5
SECONDS_BEFORE = 0.1
"""The same before the first generation: clients are waiting."""
SILENCE, IDLE_SILENCE, PATIENCE = 2.0, 10.0, 3.0
"""Seconds without a word from the engine after which it is asked for one, while it has work and while it has none; and
how long it may take to answer."""


class EngineLostError(ConnectionError):
    """The engine's process has died; what was in it is lost, and nothing starts it again."""


class Health:
    """Ready after the first generation that works; from then on as long as Triton says so and the engine answers.

    Triton (2.51) does not notice that a Python backend's process has died: it calls the model ready, never answers what
    was in flight, refuses what comes, and does not start the process again. Then this process has to end.
    """

    def __init__(self, service: Service, triton: TritonHttp) -> None:
        self._service, self._triton = service, triton
        self._generated = False
        self._timed_out = False
        self._hang = HangWatch(service.settings.hang_seconds, service.admission, service.streams, triton)
        self.reason = "the model is loading"
        """Why the service is not ready."""
        self.is_lost = False
        """True once the engine's process has died."""

    @property
    def is_ready(self) -> bool:
        return not self.reason and self._service.admission.takes_work

    @property
    def hang(self) -> str:
        """Why nothing will come of waiting any longer; empty where it may."""
        seconds = self._hang.seconds
        return f"the engine has stood still for {seconds:.0f} s" if seconds else ""

    async def watch(self, on_lost: Callable[[], None]) -> None:
        """Keeps `reason` true until it is cancelled; ends where the engine is lost, and says so once."""
        async with grpc_channel(self._service.settings) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            doubted = self._service.admission.doubted
            while not self.is_lost:
                before, self._timed_out = self.reason, False
                self.reason = await (self._settle_doubt() if doubted.is_set() else self._why_not(stub))
                await self._hang.look(not self._timed_out)
                self._service.metrics.ready.set(self.is_ready)
                if before != self.reason:
                    logger.info("not ready: %s", self.reason) if self.reason else logger.info("ready")
                with suppress(TimeoutError):
                    seconds = SECONDS_BETWEEN if self._generated else SECONDS_BEFORE
                    await asyncio.wait_for(doubted.wait(), seconds)
        on_lost()

    async def _settle_doubt(self) -> str:
        reason = await self._ping()
        self._service.admission.doubted.clear()
        return reason

    async def _why_not(self, stub: service_pb2_grpc.GRPCInferenceServiceStub) -> str:
        hold = self._service.settings.hold
        if hold and hold.exists():
            return "the service is starting"
        for model in self._service.engine_models:
            try:
                answer = await stub.ModelReady(service_pb2.ModelReadyRequest(name=model), timeout=5)
            except grpc.aio.AioRpcError as error:
                self._timed_out = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                return f"Triton does not answer: {error.details()}"
            if not answer.ready:
                self._generated = False
                return "the model is loading"
        if not self._generated:
            return await self._generate()
        silence = SILENCE if self._service.admission.own else IDLE_SILENCE
        if self.reason or time.monotonic() - self._service.streams.heard > silence:
            return await self._ping()
        return ""

    async def _ping(self) -> str:
        try:
            await asyncio.wait_for(self._service.streams.ping(), PATIENCE)
        except TimeoutError:
            self._timed_out = True
            return f"the engine has not answered for {PATIENCE:.0f} s"
        except ApiError as error:
            self._look_for_loss(error)
            if error.status == 503:  # a refusal is an answer
                return f"the engine does not answer: {error}"
        return ""

    def _look_for_loss(self, error: ApiError) -> None:
        if error.code == ENGINE_LOST:
            self.is_lost = True
            self._service.admission.abandon(engine_lost())

    async def _generate(self) -> str:
        ids = self._service.encoder.plain("def hello():\n    ")
        lookahead = self._service.limits.choose_lookahead(None, len(ids))
        generation = Generation(ids, 1, (), lookahead, streaming=False)
        try:
            await asyncio.wait_for(self._finish(generation), 60)
        except TimeoutError:
            self._timed_out = True
            return "a generation failed: no answer in 60 s"
        except ApiError as error:
            self._look_for_loss(error)
            return f"a generation failed: {error}"
        self._service.drafting.usual = usual_drafter(await self._triton.metrics()) or self._service.drafting.usual
        self._generated = True
        return ""

    async def _finish(self, generation: Generation) -> None:
        async with aclosing(self._service.streams.generate(generation, "ready")) as steps:
            async for _ in steps:
                pass


def usual_drafter(page: bytes) -> str:
    """What drafts for a request that names no drafter, by the engine's metrics; empty where they do not tell."""
    found = re.search(rf'^{USUAL_DRAFTER}\{{[^}}]*drafter="(\w+)"[^}}]*\}} 1', page.decode(), re.MULTILINE)
    return found[1] if found else ""
