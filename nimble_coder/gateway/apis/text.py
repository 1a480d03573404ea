"""Routes about text and tokens that do not touch the engine: tokenize, detokenize, and prompts as they are rendered."""

from nimble_coder.gateway.answers.bodies.tokens import RenderedPrompt, RenderedPrompts, Text, TokenPiece, Tokens
from nimble_coder.gateway.answers.wire import encode
from nimble_coder.gateway.apis.fim import read_infill
from nimble_coder.gateway.apis.openai import read_chat, read_completion
from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.front import Front
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.gateway.requests.schemas.tokens import DetokenizeRequest, TokenizeRequest
from nimble_coder.gateway.service import Service


async def tokenize(front: Front, exchange: Exchange) -> None:
    """`POST /tokenize`: control strings are control tokens unless `parse_special` is false."""
    service = front.service
    asked, size = await service.read(exchange, TokenizeRequest)
    service.check_model(asked.model)
    check_one_text(asked)
    if asked.messages is not None:
        chat = ChatRequest(
            messages=asked.messages,
            tools=asked.tools,
            add_generation_prompt=asked.add_generation_prompt,
            continue_final_message=asked.continue_final_message,
        )
        ids = await aside(size, service.chats.encode, chat)
    else:
        text = asked.prompt or asked.content or ""
        ids = await service.encode(text, control=asked.parse_special is not False)
    await exchange.respond(200, await aside(size, tokenized, service, asked, ids))


def check_one_text(asked: TokenizeRequest) -> None:
    """Raises `ApiError` where there is no text, or more than one."""
    given = [name for name in ("prompt", "content", "messages") if getattr(asked, name) is not None]
    if not given:
        raise ApiError(400, "send the text as prompt or as content, or send messages", "empty_prompt", "prompt")
    if len(given) > 1:
        text = f"{' and '.join(given)} each have a text: send one of them"
        raise ApiError(400, text, "invalid_input", given[-1])


def tokenized(service: Service, asked: TokenizeRequest, ids: list[int]) -> bytes:
    """The answer: every token's text costs more than all the rest, and few ask for it."""
    tokens: list[int | TokenPiece] = [*ids]
    if asked.with_pieces:
        tokens = [TokenPiece(i, piece_of(service.tokenizer.token_bytes(i))) for i in ids]
    shown = [service.token_text(i) for i in ids] if asked.return_token_strs else None
    return encode(Tokens(len(ids), service.limits.max_model_len, tokens, shown))


def piece_of(spelled: bytes) -> str | list[int]:
    """A token as llama.cpp shows it: a text, or bytes where they are a part of a character."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return [*spelled]


async def detokenize(front: Front, exchange: Exchange) -> None:
    """`POST /detokenize`."""
    service = front.service
    asked, _ = await service.read(exchange, DetokenizeRequest)
    service.check_model(asked.model)
    ids = service.encoder.check_ids(asked.tokens, service.limits.vocab_size, "tokens")
    text = await aside(len(ids), service.tokenizer.decode, ids, False)
    await exchange.respond(200, encode(Text(text, text)))


def rendered(service: Service, prompts: list[list[int]]) -> bytes:
    """The prompts as text, with control tokens spelled out, and as ids."""
    data = [RenderedPrompt(service.tokenizer.decode(ids, skip_special_tokens=False), ids) for ids in prompts]
    return encode(RenderedPrompts(data[0].prompt, data[0].prompt_token_ids, data))


async def respond_prompts(service: Service, exchange: Exchange, prompts: list[list[int]]) -> None:
    """Shows the prompts."""
    await exchange.respond(200, await aside(sum(map(len, prompts)), rendered, service, prompts))


async def render_completion(front: Front, exchange: Exchange) -> None:
    """`POST /v1/completions/render`."""
    _, prompts, _ = await read_completion(front.service, exchange)
    await respond_prompts(front.service, exchange, prompts)


async def render_chat(front: Front, exchange: Exchange) -> None:
    """`POST /v1/chat/completions/render`, which llama.cpp calls `/apply-template`."""
    _, ids, _, _ = await read_chat(front.service, exchange)
    await respond_prompts(front.service, exchange, [ids])


async def render_infill(front: Front, exchange: Exchange) -> None:
    """`POST /infill/render`."""
    _, prompts, _, _ = await read_infill(front.service, exchange)
    await respond_prompts(front.service, exchange, prompts)
