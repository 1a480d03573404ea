"""Every route of the HTTP side: the one table that requests, the OpenAPI page and the tests go by."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from nimble_coder.gateway import (
    answers,
    fim_routes,
    management,
    openai_routes,
    openapi,
    playground,
    schemas,
    text_routes,
)
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.route import Answer, Handler, Route
from nimble_coder.gateway.service import Service
from nimble_coder.gateway.wire import encode

if TYPE_CHECKING:
    from nimble_coder.gateway.app import App

HTML = b"text/html; charset=utf-8"

Generating = Callable[[Service, Exchange], Awaitable[None]]


def on_service(handler: Generating) -> Handler:
    """A handler that needs the service alone."""

    async def handle(app: "App", exchange: Exchange) -> None:
        await handler(app.service, exchange)

    return handle


def generates(
    path: str, handler: Generating, body: type[Struct], summary: str, whole: tuple[Any, ...], chunk: tuple[Any, ...]
) -> Route:
    """A route that runs the model; `whole` and `chunk` are the types of its answers."""
    given = (Answer(whole), Answer((*chunk, answers.ErrorResponse), "text/event-stream"))
    refusals = (404, 500, 503)
    return Route("POST", path, on_service(handler), summary, given, body, refusals, is_limited=True, is_generating=True)


def reads(path: str, handler: Generating, body: type[Struct], summary: str, answer: type[Struct]) -> Route:
    """A route that tells something about a text."""
    return Route("POST", path, on_service(handler), summary, (Answer((answer,)),), body, (404,), is_limited=True)


def shows(path: str, handler: Generating, summary: str, answer: type[Struct], is_open: bool = True) -> Route:
    """A route that tells something about the service."""
    return Route("GET", path, on_service(handler), summary, (Answer((answer,)),), is_open=is_open)


async def ready(app: "App", exchange: Exchange) -> None:
    """`GET /v1/health/ready`: 503 until a generation has worked, and while the service drains."""
    if app.health.is_ready:
        await exchange.respond(200, encode(answers.Health("Service is ready.")))
        return
    reason = app.health.reason or "the service is shutting down"
    raise ApiError(503, f"not ready: {reason}", "not_ready", retry_after=1)


async def metrics(app: "App", exchange: Exchange) -> None:
    """`GET /v1/metrics`: the gateway's metrics and Triton's."""
    if not (app.service.settings.metrics_on_http_port or exchange.is_on_metrics_port):
        raise ApiError(404, "metrics are on the metrics port only", "unknown_path")
    page = app.service.metrics.page() + await app.triton.metrics()
    await exchange.respond(200, page, b"text/plain; version=0.0.4; charset=utf-8")


async def show_openapi(app: "App", exchange: Exchange) -> None:  # noqa: ARG001
    """`GET /openapi.json`."""
    await exchange.respond(200, openapi.document(ROUTES))


async def docs(app: "App", exchange: Exchange) -> None:  # noqa: ARG001
    """`GET /docs`: the OpenAPI document as a page, without outside assets."""
    await exchange.respond(200, openapi.page(ROUTES), HTML)


async def show_playground(app: "App", exchange: Exchange) -> None:  # noqa: ARG001
    """`GET /`."""
    await exchange.respond(200, playground.page(), HTML, playground.HEADERS)


async def pass_to_triton(app: "App", exchange: Exchange) -> None:
    """`/v2` and everything below it: KServe's HTTP protocol, passed through."""
    await app.triton.forward(exchange)


HEALTH = [
    Route("GET", path, ready, "Ready to answer", (Answer((answers.Health,)),), refusals=(503,), is_open=True)
    for path in ("/v1/health/ready", "/health/ready", "/health")
]
LIVE = [
    shows(path, management.live, "The process is up", answers.Health) for path in ("/v1/health/live", "/health/live")
]
METRICS = [
    Route("GET", path, metrics, "Prometheus metrics", (Answer(content_type="text/plain"),), is_open=True)
    for path in ("/v1/metrics", "/metrics")
]
ONE = (Answer((answers.Model,)),)
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
        ("/v2/health/live", "Triton is up", answers.Live),
        ("/v2/health/ready", "Triton is ready", answers.Ready),
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
COMPLETION = (answers.Completion,), (answers.CompletionChunk,)
CHAT = (answers.ChatCompletion,), (answers.ChatChunk,)
LLAMA = (
    (answers.LlamaResult, list[answers.LlamaResult], answers.LlamaFields, list[answers.LlamaFields]),
    (answers.LlamaChunk, answers.LlamaResult),
)
RENDERED = "The prompt as sent", answers.RenderedPrompts
ROUTES = (
    generates(
        "/v1/completions", openai_routes.completions, schemas.CompletionRequest, "Complete or fill in", *COMPLETION
    ),
    generates("/v1/chat/completions", openai_routes.chat, schemas.ChatRequest, "Answer a chat", *CHAT),
    generates("/v1/fim/completions", fim_routes.mistral_fim, schemas.FimRequest, "Fill in (Mistral's)", *CHAT),
    generates("/infill", fim_routes.llama_infill, schemas.InfillRequest, "Fill in (llama.cpp's)", *LLAMA),
    generates("/completion", fim_routes.llama_completion, schemas.InfillRequest, "Complete (llama.cpp's)", *LLAMA),
    reads("/tokenize", text_routes.tokenize, schemas.TokenizeRequest, "Text to token ids", answers.Tokens),
    reads("/detokenize", text_routes.detokenize, schemas.DetokenizeRequest, "Token ids to text", answers.Text),
    reads("/v1/completions/render", text_routes.render_completion, schemas.CompletionRequest, *RENDERED),
    reads("/v1/chat/completions/render", text_routes.render_chat, schemas.ChatRequest, *RENDERED),
    reads("/infill/render", text_routes.render_infill, schemas.InfillRequest, *RENDERED),
    shows("/v1/models", openai_routes.models, "Models", answers.Models, is_open=False),
    shows("/models", openai_routes.models, "Models", answers.Models, is_open=False),
    Route("GET", "/v1/models/{model}", on_service(openai_routes.model), "One model", ONE, refusals=(404,)),
    *LIVE,
    *HEALTH,
    *METRICS,
    shows("/v1/version", management.show_version, "Version", answers.Version),
    shows("/version", management.show_version, "Version", answers.Version),
    shows("/v1/license", management.show_license, "Licence", answers.License),
    shows("/v1/metadata", management.metadata, "What is served", answers.Metadata, is_open=False),
    shows("/v1/manifest", management.show_manifest, "The artefact's manifest", answers.ManifestFile, is_open=False),
    shows("/props", management.props, "llama.cpp's properties", answers.Props, is_open=False),
    Route("GET", "/openapi.json", show_openapi, "This API", (Answer((dict,)),), is_open=True),
    Route("GET", "/docs", docs, "This API as a page", PAGE, is_open=True),
    Route("GET", "/", show_playground, "Playground", PAGE, is_open=True),
    *PROBES,
    *PASSED,
)
EXACT = {(route.method, route.path): route for route in ROUTES if not route.path.endswith("}")}
PREFIXES = [(route.method, route.path[: route.path.index("{")], route) for route in ROUTES if route.path.endswith("}")]


def find_route(method: str, path: str) -> tuple[Route, str]:
    """The route and what its pattern left open; raises `ApiError` 404 or 405."""
    asked = {"HEAD": "GET"}.get(method, method)
    if route := EXACT.get((asked, path)):
        return route, ""
    for known, prefix, route in PREFIXES:
        if path.startswith(prefix) and len(path) > len(prefix) and known == asked:
            return route, path[len(prefix) :]
    methods = {route.method for route in ROUTES if route.path == path}
    methods |= {known for known, prefix, _ in PREFIXES if path.startswith(prefix)}
    if not methods:
        raise ApiError(404, f"there is no {path[:100]!r} here: GET /docs lists what there is", "unknown_path")
    if method == "OPTIONS":
        return next(r for r in ROUTES if r.path == path or path.startswith(r.path.split("{")[0])), ""
    allowed = tuple(sorted(methods))
    text = f"{method} is not allowed for {path[:100]!r}: use {' or '.join(allowed)}"
    raise ApiError(405, text, "method", allowed=allowed)
