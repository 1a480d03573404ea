"""Routes about text and tokens that do not touch the engine: tokenize, detokenize, and prompts as they are rendered."""

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.fim_routes import read_infill
from nimble_coder.gateway.openai_routes import completion_prompts, infill_prompt
from nimble_coder.gateway.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    InfillRequest,
    TokenizeRequest,
    decode,
)
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.wire import encode


async def tokenize(service: Service, exchange: Exchange) -> None:
    """`POST /tokenize`: control strings are control tokens unless `parse_special` is false."""
    asked = decode(TokenizeRequest, await exchange.body(service.settings.max_body_bytes))
    if asked.messages is not None:
        chat = ChatRequest(
            messages=asked.messages, tools=asked.tools, add_generation_prompt=asked.add_generation_prompt
        )
        ids = service.chats.encode(chat)
    else:
        text = asked.prompt if asked.prompt is not None else asked.content
        if text is None:
            raise ApiError(400, "send the text as prompt or as content, or send messages", "empty_prompt", "prompt")
        ids = await service.encode(text, control=asked.parse_special is not False)
    pieces = [service.tokenizer.decode([i], skip_special_tokens=False) for i in ids]
    tokens: object = ids
    if asked.with_pieces:
        tokens = [{"id": i, "piece": piece} for i, piece in zip(ids, pieces, strict=True)]
    strings = pieces if asked.return_token_strs else None
    answer = {
        "count": len(ids),
        "max_model_len": service.limits.max_seq_len,
        "tokens": tokens,
        "token_strs": strings,
    }
    await exchange.respond(200, encode(answer))


async def detokenize(service: Service, exchange: Exchange) -> None:
    """`POST /detokenize`: `prompt` is vLLM's name of the result, `content` llama.cpp's."""
    asked = decode(DetokenizeRequest, await exchange.body(service.settings.max_body_bytes))
    ids = service.encoder.check_ids(asked.tokens, service.limits.vocab_size)
    text = service.tokenizer.decode(ids, skip_special_tokens=False)
    await exchange.respond(200, encode({"prompt": text, "content": text}))


async def respond_prompts(service: Service, exchange: Exchange, prompts: list[list[int]]) -> None:
    """The prompts as text, with control tokens spelled out, and as ids."""
    texts = [service.tokenizer.decode(ids, skip_special_tokens=False) for ids in prompts]
    data = [{"prompt": text, "prompt_token_ids": ids} for text, ids in zip(texts, prompts, strict=True)]
    await exchange.respond(200, encode({**data[0], "prompts": data}))


async def render_completion(service: Service, exchange: Exchange) -> None:
    """`POST /v1/completions/render`."""
    asked = decode(CompletionRequest, await exchange.body(service.settings.max_body_bytes))
    await respond_prompts(service, exchange, await completion_prompts(service, asked))


async def render_chat(service: Service, exchange: Exchange) -> None:
    """`POST /v1/chat/completions/render`."""
    asked = decode(ChatRequest, await exchange.body(service.settings.max_body_bytes))
    await respond_prompts(service, exchange, [service.chats.encode(asked)])


async def render_infill(service: Service, exchange: Exchange) -> None:
    """`POST /infill/render`."""
    asked = decode(InfillRequest, await exchange.body(service.settings.max_body_bytes))
    await respond_prompts(service, exchange, [infill_prompt(service, read_infill(asked), asked.n_predict)[0]])
