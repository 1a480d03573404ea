"""An answer on its way: generations run on the engine, and their text goes out as the API writes it."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypeVar

from nimble_coder.contract.fields import DRAFTING
from nimble_coder.contract.request import FORM_NAME, WRONG_SCHEMA
from nimble_coder.gateway.answers.bodies.usage import Usage
from nimble_coder.gateway.answers.transcript import Delta, Transcript
from nimble_coder.gateway.answers.usage import figures_of, usage_of
from nimble_coder.gateway.answers.wire import Wire
from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import JSON, Exchange, Headers
from nimble_coder.gateway.job import Job
from nimble_coder.gateway.service import Service

Result = TypeVar("Result")
SCHEMA_OF_TURN = re.compile(
    rf"{re.escape(FORM_NAME)} {WRONG_SCHEMA} (?:arguments_(?P<function>\d+)|answer): (?P<why>.*)", re.DOTALL
)
"""An engine's refusal of a schema in the form of a turn with calls, by its rule (`requests/forms.py`)."""


@dataclass(frozen=True)
class Delivery:
    """How an answer goes out."""

    wire: Wire
    prompt_tokens: int
    """Of all prompts together, however many choices each has."""
    stream: bool = False
    every_step: bool = False
    """A chunk for every step, also where a step gives no text yet."""
    continuous_usage: bool = False
    final_usage: bool = False
    """The usage of all choices in the last chunk that has one."""
    headers: Headers = field(default_factory=list)


class Answer:
    """The choices of one request while they are generated, and the response that they are written to."""

    def __init__(self, service: Service, exchange: Exchange, jobs: Sequence[Job], delivery: Delivery) -> None:
        self._service, self._exchange = service, exchange
        self._jobs, self._delivery = jobs, delivery
        tokenizer = service.tokenizer
        self._transcripts = [Transcript(tokenizer, job.ending, len(job.generation.input_ids)) for job in jobs]

    async def send(self) -> None:
        """Runs the jobs and sends what they bring; a client that goes away frees its places at once. Raises `ApiError`
        for what is refused before anything was sent, or fails, and `ClientGone`."""
        service, exchange = self._service, self._exchange
        with service.generating(exchange.client, len(self._jobs)):
            try:
                async with exchange.connected():
                    await (self._stream() if self._delivery.stream else self._whole())
            finally:
                key = exchange.client if service.keys.required and service.settings.metrics_per_key else ""
                service.metrics.record(self._delivery.prompt_tokens, self._transcripts, key)
                exchange.figures = figures_of(self._delivery.prompt_tokens, self._transcripts)

    async def _run(self, choice: int) -> AsyncGenerator[Delta, None]:
        """Yields what every step of a choice adds until it ends."""
        job, transcript = self._jobs[choice], self._transcripts[choice]
        try:
            async with aclosing(self._service.streams.generate(job.generation, self._exchange.request_id)) as steps:
                async for step in steps:
                    yield transcript.push(step)
                    if transcript.finish_reason is not None:
                        return
        except ApiError as error:
            raise of_field(error, job.form_fields, job.functions) from None

    async def _whole(self) -> None:
        async def collect(choice: int) -> str:
            return self._jobs[choice].echo + "".join([delta.text async for delta in self._run(choice)])

        delivery = self._delivery
        texts = await together([collect(choice) for choice in range(len(self._jobs))])
        scores = sum(transcript.scores for transcript in self._transcripts)
        body = await aside(scores, delivery.wire.whole, texts, self._transcripts, self._usage())
        await self._exchange.respond(200, body, JSON, delivery.headers)

    async def _stream(self) -> None:
        delivery = self._delivery
        async with self._exchange.kept_alive(delivery.wire.stream_type, delivery.headers):
            await together([self._stream_choice(choice) for choice in range(len(self._jobs))])
        await self._exchange.write(delivery.wire.closing(self._usage()), more=False)

    async def _stream_choice(self, choice: int) -> None:
        """One choice's chunks. The response starts with the first of them, so that a refusal still has its status."""
        delivery, transcript = self._delivery, self._transcripts[choice]
        wire = delivery.wire

        def usage_now() -> Usage | None:
            return usage_of(delivery.prompt_tokens, [transcript]) if delivery.continuous_usage else None

        opening = wire.opening(choice, usage_now())
        is_echoed = False
        async with aclosing(self._run(choice)) as steps:
            async for delta in steps:
                is_shown = delta.text or (delivery.every_step and delta.token_ids)
                if is_shown and (chunk := wire.delta(choice, delta, usage_now())):
                    before = opening if is_echoed else opening + await self._echo(choice)
                    await self._write(before + chunk)
                    opening, is_echoed = b"", True
        is_last = all(each.finish_reason is not None for each in self._transcripts)
        usage = self._usage() if delivery.final_usage and is_last else usage_now()
        before = opening if is_echoed else opening + await self._echo(choice)
        await self._write(before + wire.ending(choice, transcript, usage))

    async def _echo(self, choice: int) -> bytes:
        transcript = self._transcripts[choice]
        return await aside(transcript.scores, self._delivery.wire.echo, choice, transcript)

    async def _write(self, chunk: bytes) -> None:
        if not self._exchange.status:
            await self._exchange.start(200, self._delivery.wire.stream_type, self._delivery.headers)
        await self._exchange.write(chunk)

    def _usage(self) -> Usage:
        return usage_of(self._delivery.prompt_tokens, self._transcripts)


def of_field(error: ApiError, fields: Sequence[str], functions: Sequence[str] = ()) -> ApiError:
    """An engine's refusal of a form, by the fields that ask for it and the function whose parameters are wrong, or of a
    drafter; any other error as it is."""
    if error.message.startswith(f"{DRAFTING} is "):
        return replace(error, param=DRAFTING)
    if not fields or FORM_NAME not in error.message:
        return error
    found = SCHEMA_OF_TURN.search(error.message) if functions else None
    if found and found["function"]:
        name = functions[int(found["function"])]
        text = f"the parameters of {name[:80]!r} are not supported as they are: {found['why']}"
        return replace(error, message=text, code="invalid_function_parameters", param=fields[-1])
    if found:
        text = f"the schema of {fields[0]} is not supported as it is: {found['why']}"
        return replace(error, message=text, param=fields[0])
    text = error.message.replace(FORM_NAME, f"the form of {' and '.join(fields)}")
    return replace(error, message=text, param=fields[0])


async def together(works: Sequence[Awaitable[Result]]) -> list[Result]:
    """Runs coroutines at once, a lone one without a task; the first to fail ends the others and is raised."""
    if len(works) == 1:
        return [await works[0]]
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
