"""The gateway's core: what all requests of a process share."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from msgspec import Struct

from build_engine.artifact import Artifact
from build_engine.manifest import NAME
from nimble_coder.gateway.access.keys import ApiKeys
from nimble_coder.gateway.access.ledger import Ledger
from nimble_coder.gateway.access.limits import Admission, EngineLimits, RateLimiter
from nimble_coder.gateway.access.tls import Tls
from nimble_coder.gateway.answers.calling import Calling
from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.drafting import Drafting
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import ClientGone, Exchange
from nimble_coder.gateway.policy import Policy, policy_of
from nimble_coder.gateway.prompts.chat import ChatPrompts, calling_of, check_form_beside, held
from nimble_coder.gateway.prompts.encoding import PromptEncoder
from nimble_coder.gateway.requests.ebnf.guide import call_ebnf
from nimble_coder.gateway.requests.field_check import UNGUIDED, check_fields, header, passed_over
from nimble_coder.gateway.requests.fields import Engine
from nimble_coder.gateway.requests.forms import named_guide
from nimble_coder.gateway.requests.overruled import overruled
from nimble_coder.gateway.requests.reading import INVALID, decode, whole_characters
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.gateway.settings import GatewaySettings, split
from nimble_coder.gateway.telemetry.metrics import GatewayMetrics
from nimble_coder.gateway.telemetry.tracing import Tracing
from nimble_coder.gateway.upstream.token_stream import TokenStreams
from nimble_coder.text.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

Asked = TypeVar("Asked", bound=Struct)


class Service:
    """Everything that requests share in one process."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.artifact = Artifact.open(settings.artifact)
        self.manifest = (self.artifact.directory / NAME).read_text(encoding="utf-8")
        """The file as it was at the start: an artefact may be removed while it is served."""
        self.limits = EngineLimits.of(self.artifact, settings.max_model_len)
        self.tokenizer = TextTokenizer(self.artifact.tokenizer)
        self.encoder = PromptEncoder(self.tokenizer)
        self.profile = self.artifact.manifest.profile
        self.engine_models = self.artifact.engine_models
        own = Engine.SAMPLING if self.profile.samples or self.artifact.has_companion else Engine.GREEDY
        self.engine = Engine.PORTABLE if self.profile.is_portable else own
        self.is_guided = self.engine is Engine.SAMPLING and self.artifact.guide_tokens is not None
        """Whether TensorRT's guided decoding holds answers to forms."""
        self.chats = ChatPrompts(self.encoder, self.artifact.tokenizer)
        self.names = settings.names or self.profile.served_names
        keys = split(settings.api_keys.get_secret_value())
        self.metrics = GatewayMetrics(settings.prometheus_multiproc_dir, settings.metrics_per_key)
        admin_key = settings.admin_key.get_secret_value()
        self.keys = ApiKeys(keys, settings.api_keys_file, admin_key, self.metrics.unreadable_keys.inc)
        ledger = Ledger(settings.prometheus_multiproc_dir)
        self.rate = RateLimiter(settings.requests_per_minute, ledger)
        self.tls = self._find_tls()
        self.tracing = Tracing(settings.otel_service_name, bool(settings.otel_endpoint))
        limit = settings.max_concurrent_requests or 5 * self.limits.max_batch_size
        self.admission = Admission(limit, ledger, self.metrics.running, self.keys)
        self.drafting = Drafting(self.profile, self.limits, self._find_policy(), self.admission)
        self.streams = TokenStreams(settings.triton_host, settings.triton_grpc_port)
        self.started = int(time.time())

    def _find_tls(self) -> Tls | None:
        s = self.settings
        if not (s.tls_certificate and s.tls_key):
            return None
        gauges = self.metrics.certificate_ends, self.metrics.certificate_unusable
        return Tls(s.tls_certificate, s.tls_key, s.tls_client_ca, *gauges)

    def _find_policy(self) -> Policy | None:
        """The table that maps load to (w,n,g); None leaves the choice to the engine. Raises `PolicyError`."""
        given, beside = self.settings.policy, policy_of(self.artifact.directory)
        path = given or (beside if beside and beside.is_file() else None)
        if path is None:
            return None
        logger.info("lookahead by load: %s", path)
        return Policy.read(path, self.limits.most_lookahead)

    @contextmanager
    def generating(self, client: str, count: int) -> Iterator[None]:
        """Holds a client's places for the running task, as `Admission.admit` does; counts a client that goes away."""
        try:
            with self.admission.admit(client, count):
                yield
        except (ClientGone, asyncio.CancelledError):
            self.metrics.cancelled.inc(count)
            raise

    async def read(self, exchange: Exchange, kind: type[Asked]) -> tuple[Asked, int]:
        """What a request's body asks for, and its size in bytes; the answer's head names what of it is ignored. Raises
        `ApiError` for what cannot be read or must not be ignored."""
        body = await exchange.body(self.settings.max_body_bytes)
        try:
            asked = decode(kind, body)
        except ApiError as error:
            if error.code != INVALID:
                raise
            body = await aside(len(body), whole_characters, body)
            asked = decode(kind, body)
        strict = self.settings.strict_sampling
        ignored = await aside(len(body), check_fields, kind, body, self.engine, strict)
        ignored += await aside(len(body), lambda: [passed_over(name, strict) for name in overruled(asked)])
        if ignored:
            exchange.extra_headers = [*exchange.extra_headers, (b"x-nimble-ignored", header([*dict.fromkeys(ignored)]))]
        return asked, len(body)

    def calling(self, asked: ChatRequest) -> Calling:
        """What an answer may call; raises `ApiError` for a choice of tools, or a form, that cannot be kept."""
        return self._calling(asked).prepared()

    def _calling(self, asked: ChatRequest) -> Calling:
        calling = calling_of(asked)
        check_form_beside(calling, asked)
        if self.engine is Engine.PORTABLE:
            return held(calling, asked)
        check_strict(calling, self.is_guided)
        if self.is_guided and not calling.opening and named_guide(asked):
            return Calling()  # the form holds the whole answer
        functions = calling.demanded_functions if self.is_guided else ()
        return replace(calling, guide=call_ebnf(functions) if functions else None)

    def token_text(self, token: int) -> str:
        """One token's text, for those who ask for log probabilities."""
        return self.tokenizer.decode([token], skip_special_tokens=False)

    def check_model(self, name: str | None) -> str:
        """The name to answer with; raises `ApiError` 404 for a model that is not served, unless any name will do."""
        if not name or name in self.names:
            return name or self.names[0]
        if self.settings.accept_any_model_name:
            return self.names[0]
        text = f"the model {name[:80]!r} is not served here: use {' or '.join(map(repr, self.names))}"
        raise ApiError(404, text, "model_not_found", "model")

    async def encode(self, text: str, control: bool) -> list[int]:
        """Ids of a text; a long one is encoded beside the event loop."""
        pieces = self.encoder.split(text) if control else [text]
        return await aside(len(text), self.encoder.encode, pieces)


def check_strict(calling: Calling, is_guided: bool) -> None:
    """Raises `ApiError` for strict functions whose schemas a TensorRT engine's calls cannot be kept to: those of its
    own accord are checked when they are whole, demanded ones have to be held."""
    demanded = [name for name, _, is_strict in calling.demanded_functions if is_strict]
    if demanded and not is_guided:
        text = f"a demanded call of {demanded[0][:80]!r}, which is strict, is not available with this engine{UNGUIDED}"
        raise ApiError(400, f"{text}; or leave out strict", "unsupported", "tool_choice")
    try:
        calling.strict.check()
    except ValueError as error:
        raise ApiError(400, f"{error}: mend them, or leave out strict", "unsupported", "tools") from None
