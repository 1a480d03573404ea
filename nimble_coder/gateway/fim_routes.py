"""Fill-in-the-middle routes: Mistral's, and llama.cpp's with the plain completion that its clients fall back to."""

from nimble_coder.gateway.chat_wire import ChatWire
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.fim import Infill
from nimble_coder.gateway.llama_wire import LlamaWire
from nimble_coder.gateway.openai_routes import answer_openai, context_files, infill_prompt, names
from nimble_coder.gateway.schemas import FimRequest, InfillRequest
from nimble_coder.gateway.service import Delivery, Service


async def mistral_fim(service: Service, exchange: Exchange) -> None:
    """`POST /v1/fim/completions`; answers in the shape of a chat."""
    asked, _ = await service.read(exchange, FimRequest)
    model = service.check_model(asked.model)
    ids, _ = await infill_prompt(service, Infill(asked.prompt, asked.suffix or ""), asked.max_tokens)
    room = service.limits.room(len(ids), asked.max_tokens, service.settings.fim_max_tokens)
    asked.seed = asked.seed if asked.random_seed is None else asked.random_seed
    jobs = service.jobs(ids, asked, room, bool(asked.stream), asked.n or 1)
    token_bytes, include_ids = service.tokenizer.token_bytes, bool(asked.return_token_ids)
    wire = ChatWire(exchange.request_id, model, token_bytes, asked.wants_usage, include_ids)
    await answer_openai(service, exchange, asked, jobs, wire, len(ids), final_usage=True)


def read_infill(asked: InfillRequest) -> Infill:
    """What an infill request asks for; raises `ApiError` where its prompt is not text."""
    if not isinstance(asked.prompt, str | None):
        raise ApiError(400, "prompt must be a string in an infill request", "invalid_prompt", "prompt")
    prefix = (asked.input_prefix or "") + (asked.prompt or "")
    context = context_files(asked.input_extra)
    return Infill(prefix, asked.input_suffix or "", context, *names(asked.repo_name, asked.filename))


async def llama_infill(service: Service, exchange: Exchange) -> None:
    """`POST /infill`: `prompt` is the text of the current line before the cursor and belongs to the prefix."""
    asked, _ = await service.read(exchange, InfillRequest)
    ids, truncated = await infill_prompt(service, read_infill(asked), wanted_tokens(asked))
    await answer_llama(service, exchange, asked, ids, truncated)


async def llama_completion(service: Service, exchange: Exchange) -> None:
    """`POST /completion`: a raw prompt, control tokens written out."""
    asked, _ = await service.read(exchange, InfillRequest)
    prompt = asked.prompt
    if prompt is None:
        raise ApiError(400, "prompt is missing: send a string or token ids", "empty_prompt", "prompt")
    if isinstance(prompt, str):
        ids = await service.encode(prompt, control=True)
    else:
        ids = service.encoder.check_ids(prompt, service.limits.vocab_size)
    await answer_llama(service, exchange, asked, ids, truncated=False)


def wanted_tokens(asked: InfillRequest) -> int | None:
    """`n_predict`, or OpenAI's name for it; -1 is as much as fits."""
    return asked.n_predict if asked.n_predict is not None else asked.max_tokens


async def answer_llama(
    service: Service, exchange: Exchange, asked: InfillRequest, ids: list[int], truncated: bool
) -> None:
    """Generates and answers in llama.cpp's format. `n_predict` 0 only warms the cache: one token, not shown."""
    model = service.check_model(asked.model)
    wanted = wanted_tokens(asked)
    warm_only = wanted == 0
    room = service.limits.room(len(ids), 1 if warm_only else wanted, service.settings.fim_max_tokens)
    stream = bool(asked.stream) and not warm_only
    if asked.repetition_penalty is None:
        asked.repetition_penalty = asked.repeat_penalty
    jobs = service.jobs(ids, asked, room, stream, asked.n_cmpl or 1)
    wire = LlamaWire(model, len(ids), asked, truncated=truncated, warm_only=warm_only)
    await service.answer(exchange, jobs, Delivery(wire, len(ids), stream, headers=service.headers(asked, jobs)))
