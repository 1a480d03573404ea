"""OpenAI's routes: completions (with a suffix, fill-in-the-middle), chat and models."""

from collections.abc import Sequence

from nimble_coder.gateway.answers.bodies.management import Model, Models
from nimble_coder.gateway.answers.calling import Calling
from nimble_coder.gateway.answers.chat_wire import ChatWire
from nimble_coder.gateway.answers.wire import CompletionWire, Offsets, Wire, encode
from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.delivery import Answer, Delivery
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.front import Front
from nimble_coder.gateway.job import Job, headers_of, make_jobs, room_of, wants_every_step
from nimble_coder.gateway.prompts.fim import ContextFile, Infill, encode_infill
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.gateway.requests.schemas.completion import CompletionRequest
from nimble_coder.gateway.requests.schemas.llama import ContextText, InfillRequest
from nimble_coder.gateway.requests.schemas.sampling import OpenAISampling
from nimble_coder.gateway.service import Service

MOST_CHOICES = 128
"""Prompts times `n` of one request."""


async def completions(front: Front, exchange: Exchange) -> None:
    """`POST /v1/completions`."""
    service = front.service
    asked, prompts, jobs = await read_completion(service, exchange)
    places = list[list[int]]()
    for place, ids in enumerate(prompts if asked.scores_prompt else []):
        places += [await places_of(service, asked, place, ids)] * (asked.n or 1)
    wire = CompletionWire(
        exchange.request_id,
        service.check_model(asked.model),
        service.tokenizer,
        asked.wants_usage,
        bool(asked.return_token_ids),
        echoes=[job.echo for job in jobs],
        prompts=[job.generation.input_ids for job in jobs],
        places=places,
    )
    await answer_openai(service, exchange, asked, jobs, wire, sum(map(len, prompts)))


async def read_completion(service: Service, exchange: Exchange) -> tuple[CompletionRequest, list[list[int]], list[Job]]:
    """What is asked for, its prompts' ids and its generations; raises `ApiError`."""
    asked, size = await service.read(exchange, CompletionRequest)
    service.check_model(asked.model)
    given = await completion_prompts(service, asked)
    prompts = [service.limits.kept(ids, asked.truncate_prompt_tokens) for ids in given]
    copies = asked.n or 1
    check_best_of(asked.best_of or copies, copies)
    jobs = await aside(size * len(prompts), completion_jobs, service, asked, prompts, exchange.client)
    check_choices(service, jobs, asked.n)
    return asked, prompts, jobs


def completion_jobs(service: Service, asked: CompletionRequest, prompts: list[list[int]], client: str) -> list[Job]:
    """The generations of all prompts, in their order."""
    jobs = list[Job]()
    for place, ids in enumerate(prompts):
        is_infill = service.encoder.id("<|fim_middle|>") in ids
        default = service.settings.fim_max_tokens if is_infill else service.settings.default_max_tokens
        echo = echo_of(service, asked, place, ids) if asked.echo else ""
        room = room_of(service, ids, asked, asked.wanted_tokens, default)
        jobs += make_jobs(service, ids, asked, room, bool(asked.stream), client, asked.n or 1, echo)
    return jobs


def check_best_of(best_of: int, copies: int) -> None:
    """Raises `ApiError` for more answers than are sent, of which the service would choose, and for fewer."""
    if best_of > copies:
        raise ApiError(400, "best_of above n is not available: ask for n answers and choose", "unsupported", "best_of")
    if best_of < copies:
        text = f"best_of is {best_of}, below n, which is {copies}: leave it out"
        raise ApiError(400, text, "invalid_input", "best_of")


async def completion_prompts(service: Service, asked: CompletionRequest) -> list[list[int]]:
    """The prompts' ids; with a suffix, the one infill prompt.

    An empty suffix is what editors send at the end of a file, also with a prompt that is an infill prompt already.
    """
    prompt = asked.prompt
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    suffix = asked.infill_suffix
    if suffix is not None:
        if not isinstance(prompt, str | None):
            raise ApiError(400, "with a suffix the prompt must be one string", "invalid_prompt", "prompt")
        if asked.scores_prompt:
            text = "with a suffix the model reads more than the echoed prompt: leave out echo or logprobs"
            raise ApiError(400, text, "unsupported", "logprobs")
        context = context_files(asked.input_extra)
        infill = Infill(prompt or "", suffix, context, *names(asked.repo_name, asked.filename))
        return [(await infill_prompt(service, infill, asked))[0]]
    if prompt is None or prompt == []:
        raise ApiError(
            400, "prompt is missing: send a string, token ids, or a list of either", "empty_prompt", "prompt"
        )
    if isinstance(prompt, str):
        return [await service.encode(prompt, control=True)]
    if all(isinstance(part, int) for part in prompt):
        return [service.encoder.check_ids(prompt, service.limits.vocab_size)]
    if len(prompt) > MOST_CHOICES:
        text = f"{len(prompt)} prompts in one request, {MOST_CHOICES} is the limit: send several requests"
        raise ApiError(400, text, "too_many_prompts", "prompt")
    prompts: list[list[int]] = []
    for part in prompt:
        if isinstance(part, str):
            prompts.append(await service.encode(part, control=True))
        elif isinstance(part, list):
            prompts.append(service.encoder.check_ids(part, service.limits.vocab_size))
        else:
            raise ApiError(400, "prompt mixes token ids with texts: send one or the other", "invalid_prompt", "prompt")
    return prompts


def echo_of(service: Service, asked: CompletionRequest, place: int, ids: list[int]) -> str:
    """The prompt in a place of the request as it was sent: with a suffix the text before it, and ids as their text."""
    sent = text_of(asked, place)
    return service.tokenizer.decode(ids, skip_special_tokens=False) if sent is None else sent


def text_of(asked: CompletionRequest, place: int) -> str | None:
    """The text in a place of the request; None where ids were sent."""
    sent: object = asked.prompt
    if isinstance(sent, list) and sent and not isinstance(sent[0], int):
        sent = sent[place]
    if sent is None:
        return ""
    return sent if isinstance(sent, str) else None


async def places_of(service: Service, asked: CompletionRequest, place: int, ids: list[int]) -> list[int]:
    """Where in what `echo_of` repeats the tokens begin that were kept of a prompt."""
    sent = text_of(asked, place)
    if sent is not None:
        return (await aside(len(sent), service.encoder.places, sent))[-len(ids) :]
    offsets = Offsets(0)
    return [offsets.next(service.tokenizer.token_bytes(token)) for token in ids]


async def infill_prompt(
    service: Service, infill: Infill, asked: OpenAISampling | InfillRequest
) -> tuple[list[int], bool]:
    """An infill prompt that leaves room for what is asked for, at least half of the context for the prompt; and
    whether it had to be cut."""
    limits, max_tokens = service.limits, asked.wanted_tokens
    is_open = max_tokens is None or max_tokens < 0
    default = max(service.settings.fim_max_tokens, asked.min_tokens or 0)
    wanted = default if is_open else max(max_tokens or 0, 1)
    budget = min(limits.max_input_len, limits.max_seq_len - min(wanted, limits.max_seq_len // 2))
    return await aside(infill.size, encode_infill, service.encoder, infill, budget)


def context_files(extra: Sequence[ContextText] | None) -> list[ContextFile]:
    """llama.cpp's `input_extra` as context."""
    return [ContextFile(part.text or "", part.filename or "") for part in extra or []]


def names(repository: str | None, filename: str | None) -> tuple[str, str]:
    """Names for the repository-level format; they are one line each."""
    return " ".join((repository or "repository").split()), " ".join((filename or "").split())


async def chat(front: Front, exchange: Exchange) -> None:
    """`POST /v1/chat/completions`."""
    service = front.service
    asked, ids, calling, jobs = await read_chat(service, exchange)
    model, token_bytes = service.check_model(asked.model), service.tokenizer.token_bytes
    wire = ChatWire(
        exchange.request_id, model, token_bytes, asked.wants_usage, bool(asked.return_token_ids), calling, ids
    )
    await answer_openai(service, exchange, asked, jobs, wire, len(ids))


async def read_chat(service: Service, exchange: Exchange) -> tuple[ChatRequest, list[int], Calling, list[Job]]:
    """What is asked for, its prompt's ids, what may be called, and the generations; raises `ApiError`."""
    asked, size = await service.read(exchange, ChatRequest)
    service.check_model(asked.model)
    if asked.top_logprobs and not asked.wants_log_probs:
        raise ApiError(400, "top_logprobs is for logprobs: send logprobs true with it", "invalid_input", "top_logprobs")
    given = await aside(size, service.chats.encode, asked)
    ids = service.limits.kept(given, asked.truncate_prompt_tokens)
    limit = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.wanted_tokens
    room = room_of(service, ids, asked, limit, service.limits.max_seq_len, "messages")
    calling = await aside(size, service.calling, asked)
    stream, client = bool(asked.stream), exchange.client
    jobs = await aside(size, make_jobs, service, ids, asked, room, stream, client, asked.n or 1, "", calling)
    check_choices(service, jobs, asked.n)
    return asked, ids, calling, jobs


async def answer_openai(
    service: Service,
    exchange: Exchange,
    asked: OpenAISampling,
    jobs: Sequence[Job],
    wire: Wire,
    prompt_tokens: int,
    final_usage: bool = False,
) -> None:
    """Sends an answer as OpenAI's streaming fields ask for it; `final_usage` as Mistral has it without being asked."""
    delivery = Delivery(
        wire,
        prompt_tokens,
        stream=bool(asked.stream),
        every_step=wants_every_step(asked),
        continuous_usage=asked.wants_continuous_usage,
        final_usage=final_usage,
        headers=headers_of(service, asked, jobs),
    )
    await Answer(service, exchange, jobs, delivery).send()


def check_choices(service: Service, jobs: Sequence[Job], copies: int | None, field: str = "n") -> None:
    """Raises `ApiError` for more answers than one request may ask for: by the field that says how many copies of each,
    or by the prompts where it is one."""
    most = min(MOST_CHOICES, service.admission.most)
    if len(jobs) > most:
        text = f"{len(jobs)} answers in one request, {most} generations at once is the limit: ask for fewer"
        raise ApiError(400, text, "too_many_choices", field if (copies or 1) > 1 else "prompt")


def model_object(service: Service, name: str) -> Model:
    """An entry of `/v1/models`."""
    return Model(name, service.started, "nimble-coder", service.names[0], service.limits.max_model_len)


async def models(front: Front, exchange: Exchange) -> None:
    """`GET /v1/models`: every name the model answers to."""
    await exchange.respond(200, encode(Models([model_object(front.service, name) for name in front.service.names])))


async def model(front: Front, exchange: Exchange) -> None:
    """`GET /v1/models/{name}`; a name may hold slashes."""
    await exchange.respond(200, encode(model_object(front.service, front.service.check_model(exchange.parameter))))
