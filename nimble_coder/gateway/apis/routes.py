"""Every route of the HTTP side: the one table that requests, the OpenAPI page and the tests go by."""

from msgspec import Struct

from nimble_coder.gateway.answers import bodies
from nimble_coder.gateway.answers.wire import encode
from nimble_coder.gateway.apis import fim, management, openai, openapi, playground, text
from nimble_coder.gateway.asgi.route import Answer, Handler, Route, Router
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.front import Front
from nimble_coder.gateway.requests import schemas

HTML = b"text/html; charset=utf-8"


def generates(
    path: str, handler: Handler, body: type[Struct], summary: str, whole: tuple[type, ...], chunk: tuple[type, ...]
) -> Route:
    """A route that runs the model; `whole` and `chunk` are the types of its bodies."""
    given = (Answer(whole), Answer((*chunk, bodies.ErrorResponse), "text/event-stream"))
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
        await exchange.respond(200, encode(bodies.Health("Service is ready.")))
        return
    reason = front.health.reason or "the service is shutting down"
    raise ApiError(503, f"not ready: {reason}", "not_ready", retry_after=1)


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
    Route("GET", path, ready, "Ready to answer", (Answer((bodies.Health,)),), refusals=(503,), is_open=True)
    for path in ("/v1/health/ready", "/health/ready", "/health")
]
LIVE = [
    shows(path, management.live, "The process is up", bodies.Health) for path in ("/v1/health/live", "/health/live")
]
METRICS = [
    Route("GET", path, metrics, "Prometheus metrics", (Answer(content_type="text/plain"),), is_open=True)
    for path in ("/v1/metrics", "/metrics")
]
ONE = (Answer((bodies.Model,)),)
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
        ("/v2/health/live", "Triton is up", bodies.Live),
        ("/v2/health/ready", "Triton is ready", bodies.Ready),
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
COMPLETION = (bodies.Completion,), (bodies.CompletionChunk,)
CHAT = (bodies.ChatCompletion,), (bodies.ChatChunk,)
LLAMA = (
    (bodies.LlamaResult, list[bodies.LlamaResult], bodies.LlamaFields, list[bodies.LlamaFields]),
    (bodies.LlamaChunk, bodies.LlamaResult),
)
RENDERED = "The prompt as sent", bodies.RenderedPrompts
ROUTES = (
    generates("/v1/completions", openai.completions, schemas.CompletionRequest, "Complete or fill in", *COMPLETION),
    generates("/v1/chat/completions", openai.chat, schemas.ChatRequest, "Answer a chat", *CHAT),
    generates("/v1/fim/completions", fim.mistral_fim, schemas.FimRequest, "Fill in (Mistral's)", *CHAT),
    generates("/infill", fim.llama_infill, schemas.InfillRequest, "Fill in (llama.cpp's)", *LLAMA),
    generates("/completion", fim.llama_completion, schemas.InfillRequest, "Complete (llama.cpp's)", *LLAMA),
    reads("/tokenize", text.tokenize, schemas.TokenizeRequest, "Text to token ids", bodies.Tokens),
    reads("/detokenize", text.detokenize, schemas.DetokenizeRequest, "Token ids to text", bodies.Text),
    reads("/v1/completions/render", text.render_completion, schemas.CompletionRequest, *RENDERED),
    reads("/v1/chat/completions/render", text.render_chat, schemas.ChatRequest, *RENDERED),
    reads("/infill/render", text.render_infill, schemas.InfillRequest, *RENDERED),
    shows("/v1/models", openai.models, "Models", bodies.Models, is_open=False),
    shows("/models", openai.models, "Models", bodies.Models, is_open=False),
    Route("GET", "/v1/models/{model}", openai.model, "One model", ONE, refusals=(404,)),
    *LIVE,
    *HEALTH,
    *METRICS,
    shows("/v1/version", management.show_version, "Version", bodies.Version),
    shows("/version", management.show_version, "Version", bodies.Version),
    shows("/v1/license", management.show_license, "Licence", bodies.License),
    shows("/v1/metadata", management.metadata, "What is served", bodies.Metadata, is_open=False),
    shows("/v1/manifest", management.show_manifest, "The artefact's manifest", bodies.ManifestFile, is_open=False),
    shows("/props", management.props, "llama.cpp's properties", bodies.Props, is_open=False),
    Route("GET", "/openapi.json", show_openapi, "This API", (Answer((dict,)),), is_open=True),
    Route("GET", "/docs", docs, "This API as a page", PAGE, is_open=True),
    Route("GET", "/", show_playground, "Playground", PAGE, is_open=True),
    *PROBES,
    *PASSED,
)
ROUTER = Router(ROUTES)
