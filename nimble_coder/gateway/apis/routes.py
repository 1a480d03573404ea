"""Every route of the HTTP side: the one table that requests, the OpenAPI page and the tests go by."""

from msgspec import Struct

from nimble_coder.gateway.answers.bodies.chat import ChatChunk, ChatCompletion
from nimble_coder.gateway.answers.bodies.completion import Completion, CompletionChunk
from nimble_coder.gateway.answers.bodies.errors import ErrorResponse
from nimble_coder.gateway.answers.bodies.llama import LlamaChunk, LlamaFields, LlamaResult
from nimble_coder.gateway.answers.bodies.management import (
    Health,
    License,
    Live,
    ManifestFile,
    Metadata,
    Model,
    Models,
    Props,
    Ready,
    Version,
)
from nimble_coder.gateway.answers.bodies.responses import EVENTS, Response
from nimble_coder.gateway.answers.bodies.tokens import RenderedPrompts, Text, Tokens
from nimble_coder.gateway.answers.wire import encode
from nimble_coder.gateway.apis import fim, management, openai, openapi, playground, responses, text
from nimble_coder.gateway.asgi.route import Answer, Handler, Route, Router
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.front import Front
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.gateway.requests.schemas.completion import CompletionRequest
from nimble_coder.gateway.requests.schemas.fim import FimRequest
from nimble_coder.gateway.requests.schemas.llama import InfillRequest, LlamaRequest
from nimble_coder.gateway.requests.schemas.responses import ResponsesRequest
from nimble_coder.gateway.requests.schemas.tokens import DetokenizeRequest, TokenizeRequest

HTML = b"text/html; charset=utf-8"


def generates(
    path: str, handler: Handler, body: type[Struct], summary: str, whole: tuple[type, ...], chunk: tuple[type, ...]
) -> Route:
    """A route that runs the model; `whole` and `chunk` are the types of its bodies."""
    given = (Answer(whole), Answer((*chunk, ErrorResponse), "text/event-stream"))
    refusals = (404, 500, 503)
    return Route("POST", path, handler, summary, given, body, refusals, is_limited=True, is_generating=True)


def reads(path: str, handler: Handler, body: type[Struct], summary: str, answer: type[Struct]) -> Route:
    """A route that tells something about a text."""
    return Route("POST", path, handler, summary, (Answer((answer,)),), body, (404,), is_limited=True)


def shows(path: str, handler: Handler, summary: str, answer: type[Struct], is_open: bool = True) -> Route:
    """A route that tells something about the service."""
    return Route("GET", path, handler, summary, (Answer((answer,)),), is_open=is_open)


async def ready(front: Front, exchange: Exchange) -> None:
    """`GET /v1/health/ready`: 503 until a generation has worked, and while the service drains."""
    if front.health.is_ready:
        await exchange.respond(200, encode(Health("Service is ready.")))
        return
    reason = front.health.reason or "the service is shutting down"
    raise ApiError(503, f"not ready: {reason}", "not_ready", retry_after=1)


async def live(front: Front, exchange: Exchange) -> None:
    """`GET /v1/health/live`: 503 where only a new start helps. An engine that has died ends the service instead."""
    if front.health.hang:
        raise ApiError(503, f"not live: {front.health.hang}", "not_live")
    await exchange.respond(200, encode(Health("Service is live.")))


async def metrics(front: Front, exchange: Exchange) -> None:
    """`GET /v1/metrics`: the gateway's metrics and Triton's."""
    if not (front.service.settings.metrics_on_http_port or exchange.is_on_metrics_port):
        raise ApiError(404, "metrics are on the metrics port only", "unknown_path")
    page = front.service.metrics.page() + await front.triton.metrics()
    await exchange.respond(200, page, b"text/plain; version=0.0.4; charset=utf-8")


async def show_openapi(front: Front, exchange: Exchange) -> None:  # noqa: ARG001
    """`GET /openapi.json`."""
    await exchange.respond(200, openapi.document(ROUTES))


async def docs(front: Front, exchange: Exchange) -> None:  # noqa: ARG001
    """`GET /docs`: the OpenAPI document as a page, without outside assets."""
    await exchange.respond(200, openapi.page(ROUTES), HTML)


async def show_playground(front: Front, exchange: Exchange) -> None:  # noqa: ARG001
    """`GET /`."""
    await exchange.respond(200, playground.page(), HTML, playground.HEADERS)


async def pass_to_triton(front: Front, exchange: Exchange) -> None:
    """`/v2` and everything below it: KServe's HTTP protocol, passed through."""
    await front.triton.forward(exchange)


HEALTH = [
    Route("GET", path, ready, "Ready to answer", (Answer((Health,)),), refusals=(503,), is_open=True)
    for path in ("/v1/health/ready", "/health/ready", "/health")
]
LIVE = [
    Route("GET", path, live, "Not hung", (Answer((Health,)),), refusals=(503,), is_open=True)
    for path in ("/v1/health/live", "/health/live")
]
METRICS = [
    Route("GET", path, metrics, "Prometheus metrics", (Answer(content_type="text/plain"),), is_open=True)
    for path in ("/v1/metrics", "/metrics")
]
ONE = (Answer((Model,)),)
PAGE = (Answer(content_type="text/html"),)
KSERVE = (
    Answer((dict,)),
    Answer((dict,), "text/event-stream"),
    *(Answer(content_type=kind) for kind in ("application/octet-stream", "text/plain")),
)
BY_TRITON = (400, 408, 413, 415, 500, 503)
PROBES = [  # open as they are over gRPC
    Route("GET", path, pass_to_triton, summary, (Answer((kind,)),), None, BY_TRITON, is_open=True)
    for path, summary, kind in (
        ("/v2/health/live", "Triton is up", Live),
        ("/v2/health/ready", "Triton is ready", Ready),
    )
]
PASSED = [
    Route(
        method,
        path,
        pass_to_triton,
        "KServe v2, passed to Triton",
        KSERVE,
        refusals=(403, 404, *BY_TRITON),
        is_limited=method == "POST",
    )
    for method in ("GET", "POST")
    for path in ("/v2", "/v2/{path}")
]
COMPLETION = (Completion,), (CompletionChunk,)
CHAT = (ChatCompletion,), (ChatChunk,)
RESPONSE = (Response,), EVENTS
LLAMA = (
    (LlamaResult, list[LlamaResult], LlamaFields, list[LlamaFields]),
    (LlamaChunk, LlamaResult, LlamaFields),
)
RENDERED = "The prompt as sent", RenderedPrompts
ROUTES = (
    generates("/v1/completions", openai.completions, CompletionRequest, "Complete or fill in", *COMPLETION),
    generates("/v1/chat/completions", openai.chat, ChatRequest, "Answer a chat", *CHAT),
    generates("/v1/responses", responses.responses, ResponsesRequest, "Answer, without keeping it", *RESPONSE),
    generates("/v1/fim/completions", fim.mistral_fim, FimRequest, "Fill in (Mistral's)", *CHAT),
    generates("/infill", fim.llama_infill, InfillRequest, "Fill in (llama.cpp's)", *LLAMA),
    generates("/completion", fim.llama_completion, LlamaRequest, "Complete (llama.cpp's)", *LLAMA),
    reads("/tokenize", text.tokenize, TokenizeRequest, "Text to token ids", Tokens),
    reads("/detokenize", text.detokenize, DetokenizeRequest, "Token ids to text", Text),
    reads("/v1/completions/render", text.render_completion, CompletionRequest, *RENDERED),
    reads("/v1/chat/completions/render", text.render_chat, ChatRequest, *RENDERED),
    reads("/apply-template", text.render_chat, ChatRequest, *RENDERED),
    reads("/infill/render", text.render_infill, InfillRequest, *RENDERED),
    shows("/v1/models", openai.models, "Models", Models, is_open=False),
    shows("/models", openai.models, "Models", Models, is_open=False),
    Route("GET", "/v1/models/{model}", openai.model, "One model", ONE, refusals=(404,)),
    *LIVE,
    *HEALTH,
    *METRICS,
    shows("/v1/version", management.show_version, "Version", Version),
    shows("/version", management.show_version, "Version", Version),
    shows("/v1/license", management.show_license, "Licence", License),
    shows("/v1/metadata", management.metadata, "What is served", Metadata, is_open=False),
    shows("/v1/manifest", management.show_manifest, "The artefact's manifest", ManifestFile, is_open=False),
    shows("/props", management.props, "llama.cpp's properties", Props, is_open=False),
    Route("GET", "/openapi.json", show_openapi, "This API", (Answer((dict,)),), is_open=True),
    Route("GET", "/docs", docs, "This API as a page", PAGE, is_open=True),
    Route("GET", "/", show_playground, "Playground", PAGE, is_open=True),
    *PROBES,
    *PASSED,
)
ROUTER = Router(ROUTES)
