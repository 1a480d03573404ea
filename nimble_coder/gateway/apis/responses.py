"""OpenAI's Responses, stateless: every request holds all of its conversation."""

from dataclasses import replace

from nimble_coder.gateway.answers.response_wire import ResponseWire
from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.delivery import Answer, Delivery
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.front import Front
from nimble_coder.gateway.job import headers_of, make_jobs, room_of
from nimble_coder.gateway.prompts.responses import as_chat
from nimble_coder.gateway.requests.forms import TEXT_FORMAT
from nimble_coder.gateway.requests.schemas.responses import ResponsesRequest


async def responses(front: Front, exchange: Exchange) -> None:
    """`POST /v1/responses`."""
    service = front.service
    asked, size = await service.read(exchange, ResponsesRequest)
    model = service.check_model(asked.model)
    chat = await aside(size, as_chat, asked)
    ids = await aside(size, service.chats.encode, chat)
    calling = await aside(size, service.calling, chat)
    room = room_of(service, ids, asked, asked.max_output_tokens, service.limits.max_seq_len, "input")
    client = exchange.client
    jobs = await aside(size, make_jobs, service, ids, chat, room, bool(asked.stream), client, 1, "", calling)
    if asked.text and asked.text.format:
        names = {"response_format": TEXT_FORMAT}
        jobs = [replace(job, form_fields=tuple(names.get(name, name) for name in job.form_fields)) for job in jobs]
    wire = ResponseWire(exchange.request_id, model, asked, calling)
    exchange.failing = wire.failing
    delivery = Delivery(wire, len(ids), stream=bool(asked.stream), headers=headers_of(service, chat, jobs))
    await Answer(service, exchange, jobs, delivery).send()
