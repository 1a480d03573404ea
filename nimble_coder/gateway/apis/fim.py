"""Fill-in-the-middle routes: Mistral's, and llama.cpp's with the plain completion that its clients fall back to."""

from collections.abc import Sequence

from nimble_coder.gateway.answers.chat_wire import ChatWire
from nimble_coder.gateway.answers.llama_wire import LlamaWire
from nimble_coder.gateway.apis.openai import (
    MOST_CHOICES,
    answer_openai,
    check_choices,
    context_files,
    infill_prompt,
    names,
)
from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.delivery import Answer, Delivery
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.front import Front
from nimble_coder.gateway.job import Job, headers_of, make_jobs, room_of
from nimble_coder.gateway.prompts.fim import Infill
from nimble_coder.gateway.requests.schemas.fim import FimRequest
from nimble_coder.gateway.requests.schemas.llama import InfillRequest, LlamaPrompt, LlamaRequest
from nimble_coder.gateway.service import Service


async def mistral_fim(front: Front, exchange: Exchange) -> None:
    """`POST /v1/fim/completions`; answers in the shape of a chat."""
    service = front.service
    asked, size = await service.read(exchange, FimRequest)
    model = service.check_model(asked.model)
    ids, _ = await infill_prompt(service, Infill(asked.prompt, asked.suffix or ""), asked)
    room = room_of(service, ids, asked, asked.wanted_tokens, service.settings.fim_max_tokens)
    asked.seed = asked.seed if asked.random_seed is None else asked.random_seed
    client = exchange.client
    jobs = await aside(size, make_jobs, service, ids, asked, room, bool(asked.stream), client, asked.n or 1)
    check_choices(service, jobs, asked.n)
    token_bytes, include_ids = service.tokenizer.token_bytes, bool(asked.return_token_ids)
    wire = ChatWire(exchange.request_id, model, token_bytes, asked.wants_usage, include_ids, prompt=ids)
    await answer_openai(service, exchange, asked, jobs, wire, len(ids), final_usage=True)


def infill_of(asked: InfillRequest) -> Infill:
    """What an infill request asks for; raises `ApiError` where its prompt is not text."""
    if not isinstance(asked.prompt, str | None):
        raise ApiError(400, "prompt must be a string in an infill request", "invalid_prompt", "prompt")
    prefix = (asked.input_prefix or "") + (asked.prompt or "")
    context = context_files(asked.input_extra)
    return Infill(prefix, asked.input_suffix or "", context, *names(asked.repo_name, asked.filename))


async def llama_infill(front: Front, exchange: Exchange) -> None:
    """`POST /infill`: `prompt` is the text of the current line before the cursor and belongs to the prefix."""
    asked, prompts, truncated, jobs = await read_infill(front.service, exchange)
    await answer_llama(front.service, exchange, asked, prompts, truncated, jobs)


async def read_infill(service: Service, exchange: Exchange) -> tuple[InfillRequest, list[list[int]], bool, list[Job]]:
    """What is asked for, its one prompt's ids, whether that had to be cut, and the generations; raises `ApiError`."""
    asked, size = await service.read(exchange, InfillRequest)
    ids, truncated = await infill_prompt(service, infill_of(asked), asked)
    return asked, [ids], truncated, await aside(size, llama_jobs, service, asked, [ids], exchange.client)


async def llama_completion(front: Front, exchange: Exchange) -> None:
    """`POST /completion`: raw prompts, control tokens written out."""
    service = front.service
    asked, size = await service.read(exchange, LlamaRequest)
    prompts = [await raw_prompt(service, prompt) for prompt in raw_prompts(asked.prompt)]
    jobs = await aside(size * len(prompts), llama_jobs, service, asked, prompts, exchange.client)
    await answer_llama(service, exchange, asked, prompts, False, jobs)


def raw_prompts(prompt: LlamaPrompt | None) -> Sequence[str | Sequence[str | int]]:
    """The prompts of a request, as llama.cpp tells them apart: ids, alone or amid texts, are one prompt, texts are one
    each; raises `ApiError` where there is none or too many."""
    if prompt is None or prompt == []:
        text = "prompt is missing: send a string, token ids, or a list of either"
        raise ApiError(400, text, "empty_prompt", "prompt")
    if isinstance(prompt, str):
        return [prompt]
    if any(isinstance(part, int) for part in prompt):
        if any(isinstance(part, list) for part in prompt):
            text = "prompt mixes token ids with whole prompts: put the ids into a list of their own"
            raise ApiError(400, text, "invalid_prompt", "prompt")
        return [[part for part in prompt if not isinstance(part, list)]]
    if len(prompt) > MOST_CHOICES:
        text = f"{len(prompt)} prompts in one request, {MOST_CHOICES} is the limit: send several requests"
        raise ApiError(400, text, "too_many_prompts", "prompt")
    return [part for part in prompt if not isinstance(part, int)]


async def raw_prompt(service: Service, prompt: str | Sequence[str | int]) -> list[int]:
    """The ids of one prompt; raises `ApiError`."""
    if isinstance(prompt, str):
        return await service.encode(prompt, control=True)
    ids: list[int] = []
    for part in prompt:
        own = await service.encode(part, control=True) if isinstance(part, str) else [part]
        ids += own
    return service.encoder.check_ids(ids, service.limits.vocab_size)


def llama_jobs(service: Service, asked: LlamaRequest, prompts: Sequence[list[int]], client: str) -> list[Job]:
    """The generations of all prompts, in their order; raises `ApiError`."""
    service.check_model(asked.model)
    if asked.repetition_penalty is None:
        asked.repetition_penalty = asked.repeat_penalty
    jobs = list[Job]()
    for ids in prompts:
        room = room_of(service, ids, asked, asked.wanted_tokens, service.settings.fim_max_tokens)
        jobs += make_jobs(service, ids, asked, room, bool(asked.stream), client, asked.n_cmpl or 1)
    check_choices(service, jobs, asked.n_cmpl, "n_cmpl")
    return jobs


async def answer_llama(
    service: Service,
    exchange: Exchange,
    asked: LlamaRequest,
    prompts: Sequence[list[int]],
    truncated: bool,
    jobs: Sequence[Job],
) -> None:
    """Answers in llama.cpp's format."""
    model, stream = service.check_model(asked.model), bool(asked.stream)
    wire = LlamaWire(model, [job.generation.input_ids for job in jobs], asked, service.tokenizer, truncated)
    delivery = Delivery(wire, sum(map(len, prompts)), stream, headers=headers_of(service, asked, jobs))
    await Answer(service, exchange, jobs, delivery).send()
