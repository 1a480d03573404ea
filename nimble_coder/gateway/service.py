"""The gateway's core: what requests share, and how one becomes generations (`delivery.py` has the way back)."""

import logging
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import TypeVar

from msgspec import Struct

from build_engine.artifact import ENGINE_MODEL, PLAIN_MODEL, Artifact
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.manifest import NAME
from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.contract.encoding import Generation
from nimble_coder.contract.fields import DRAFT_POOL, DRAFT_TOKENS
from nimble_coder.contract.request import Guide
from nimble_coder.gateway.access.keys import ApiKeys
from nimble_coder.gateway.access.ledger import Ledger
from nimble_coder.gateway.access.limits import Admission, EngineLimits, RateLimiter
from nimble_coder.gateway.access.tls import Tls
from nimble_coder.gateway.answers.tools import Calling
from nimble_coder.gateway.answers.transcript import Ending
from nimble_coder.gateway.aside import aside
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Exchange, Headers
from nimble_coder.gateway.policy import Policy, policy_of
from nimble_coder.gateway.prompts.chat import ChatPrompts, calling_of, held
from nimble_coder.gateway.prompts.encoding import PromptEncoder
from nimble_coder.gateway.requests.ebnf.grammar import FormError
from nimble_coder.gateway.requests.ebnf.guide import as_ebnf, call_ebnf
from nimble_coder.gateway.requests.field_check import UNGUIDED, check_fields, header
from nimble_coder.gateway.requests.fields import Engine
from nimble_coder.gateway.requests.forms import guide_of, named_guide
from nimble_coder.gateway.requests.reading import decode
from nimble_coder.gateway.requests.sampling import contract_inputs, samples
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.gateway.requests.schemas.sampling import OpenAISampling, Sampling
from nimble_coder.gateway.requests.token_rules import bad_words_of, parameters_of
from nimble_coder.gateway.settings import GatewaySettings, split
from nimble_coder.gateway.telemetry.metrics import GatewayMetrics
from nimble_coder.gateway.telemetry.tracing import Tracing
from nimble_coder.gateway.upstream.token_stream import TokenStreams
from nimble_coder.text.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

Asked = TypeVar("Asked", bound=Struct)

SUFFIXES = "suffixes"
"""The drafter of the portable engine on CPUs."""


@dataclass(frozen=True)
class Job:
    """One choice of an answer: what the engine is asked, what ends it, and what is repeated before it."""

    generation: Generation
    ending: Ending
    echo: str = ""
    form_fields: tuple[str, ...] = ()
    """What of the request asks for the form of the answer: an engine that refuses it does not know."""


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
        self.metrics = GatewayMetrics(settings.prometheus_multiproc_dir)
        admin_key = settings.admin_key.get_secret_value()
        self.keys = ApiKeys(keys, settings.api_keys_file, admin_key, self.metrics.unreadable_keys.inc)
        ledger = Ledger(settings.prometheus_multiproc_dir)
        self.rate = RateLimiter(settings.requests_per_minute, ledger)
        self.tls = self._find_tls()
        self.tracing = Tracing(settings.otel_service_name, bool(settings.otel_endpoint))
        limit = settings.max_concurrent_requests or 5 * self.limits.max_batch_size
        self.admission = Admission(limit, ledger, self.metrics.running)
        self.policy = self._find_policy()
        self.streams = TokenStreams(settings.triton_host, settings.triton_grpc_port)
        self.usual_drafter = SUFFIXES
        """The portable engine's, for requests that name none; it depends on the device that the engine has found."""
        self.started = int(time.time())

    def _find_tls(self) -> Tls | None:
        s = self.settings
        if not (s.tls_certificate and s.tls_key):
            return None
        return Tls(s.tls_certificate, s.tls_key, s.tls_client_ca, self.metrics.certificate_ends)

    def _find_policy(self) -> Policy | None:
        """The table that maps load to (w,n,g); None leaves the choice to the engine. Raises `PolicyError`."""
        given, beside = self.settings.policy, policy_of(self.artifact.directory)
        path = given or (beside if beside and beside.is_file() else None)
        if path is None:
            return None
        logger.info("lookahead by load: %s", path)
        return Policy.read(path, self.limits.most_lookahead)

    def choose_lookahead(
        self, asked: LookaheadConfig | None, prompt_length: int, joining: int
    ) -> LookaheadConfig | None:
        """The (w,n,g) of `joining` generations that join those in flight: what was asked for, else the policy's choice;
        None leaves the engine its own. Raises `ApiError` for one beyond the engine's."""
        if asked is None and self.policy:
            return self.policy.choose(self.admission.active + joining, prompt_length)
        if asked is None and self.profile.matches_suffixes:
            return None
        return self.limits.choose_lookahead(asked, prompt_length)

    async def read(self, exchange: Exchange, kind: type[Asked]) -> tuple[Asked, int]:
        """What a request's body asks for, and its size in bytes; the answer's head names what of it is ignored. Raises
        `ApiError` for what cannot be read or must not be ignored."""
        body = await exchange.body(self.settings.max_body_bytes)
        asked = decode(kind, body)
        ignored = await aside(len(body), check_fields, kind, body, self.engine, self.settings.strict_sampling)
        if ignored:
            exchange.extra_headers = [*exchange.extra_headers, (b"x-nimble-ignored", header(ignored))]
        return asked, len(body)

    def calling(self, asked: ChatRequest) -> Calling:
        """What an answer may call; raises `ApiError` for a choice of tools, or a form, that cannot be kept."""
        calling = calling_of(asked)
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

    def room(self, ids: Sequence[int], asked: Sampling, wanted: int | None, default: int) -> int:
        """The most tokens of an answer to a prompt, by default no fewer than it must have; raises `ApiError` for a
        prompt that cannot be taken, and where fewer are wanted, or fit behind it, than the answer must have."""
        self.limits.check_prompt(len(ids))
        least = asked.min_tokens or 0
        if wanted is not None and 0 <= wanted < least:
            text = f"min_tokens is {least}, above the most that is asked for, {wanted}: send less"
            raise ApiError(400, text, "invalid_input", "min_tokens")
        room = self.limits.room(len(ids), wanted, max(default, least))
        if room < least:
            text = f"min_tokens is {least}, and {room} tokens fit behind the prompt: send less"
            raise ApiError(400, text, "invalid_input", "min_tokens")
        return room

    def jobs(
        self,
        ids: list[int],
        asked: Sampling,
        max_tokens: int,
        streaming: bool,
        client: str,
        copies: int = 1,
        echo: str = "",
        guide: Guide | None = None,
    ) -> list[Job]:
        """The generations of a client's prompt, each of the most tokens that `room` gives; raises `ApiError` for what
        the engine must not see. They are held to the form of `guide`, else to the one that the request asks for."""
        if asked.drafting:
            lookahead = self.limits.choose_lookahead(asked.asked_lookahead, len(ids))
        else:
            lookahead = self.choose_lookahead(asked.asked_lookahead, len(ids), copies)
        # The portable engine forbids end ids for so long; another one's are passed over here, each a token more of its.
        is_portable = self.engine is Engine.PORTABLE
        form = guide or (guide_of(asked) if is_portable else self._ebnf(asked))
        is_fim = self.encoder.id("<|fim_middle|>") in ids
        ends = () if asked.ignore_eos else self.encoder.fim_end_ids if is_fim else tuple(self.tokenizer.end_ids)
        min_tokens = asked.min_tokens or 0
        if form and not is_portable:  # which must not go on behind the form's end, nor be asked to
            ends, min_tokens = (*ends, *self.tokenizer.end_ids), 0
            if asked.bad_words:
                text = "bad_words is not available here where an answer has a form: leave one out"
                raise ApiError(400, text, "unsupported", "bad_words")
        # Special tokens do not show in the text, so a stop string that spells one is looked for among the ids.
        own_stops: dict[int, int | str] = {i: i for i in asked.stop_token_ids or ()}
        own_stops |= {i: stop for stop in asked.stops if (i := self.encoder.control_id(stop)) is not None}
        spare = 0 if is_portable else max(min(min_tokens, self.limits.max_seq_len - len(ids) - max_tokens), 0)
        ending = Ending(
            max_tokens=max_tokens,
            end_ids=frozenset(ends),
            stops=asked.stops,
            min_tokens=min_tokens,
            asked_tokens=max_tokens + spare,
            stop_ids=own_stops,
            seconds_after_first_line=asked.predict_seconds,
            shows_stop=bool(asked.include_stop_str_in_output),
        )
        # The engine must go on where the gateway passes over an end id; text has to be watched as it comes.
        asked_ids = [i for i in dict.fromkeys((*ends, *own_stops)) if 0 <= i < self.limits.vocab_size]
        known = () if min_tokens and not is_portable else asked_ids
        watched = bool(ending.stops or min_tokens or ending.seconds_after_first_line)
        encode = self.encoder.raw
        suffixes = self._draft_tokens(asked, lookahead)
        parameters = parameters_of(asked, encode, self.limits.vocab_size) if is_portable else ()
        if suffixes is not None:
            pool = client if self.settings.share_drafts else ""
            parameters = (*parameters, (DRAFT_TOKENS, float(suffixes)), (DRAFT_POOL, pool))
        asked_form = named_guide(asked)
        form_fields = (*((asked_form[0],) if asked_form else ()), *(("tools",) if guide else ()))
        jobs = []
        for copy in range(copies):
            inputs = contract_inputs(asked, self.engine, self.settings.strict_sampling, copy)
            bad_words = bad_words_of(asked, encode)
            is_companions = PLAIN_MODEL in self.engine_models and bool(inputs or bad_words or form)
            generation = Generation(
                ids,
                max(ending.asked_tokens, 1),  # 0 warms the cache: the token is not shown
                tuple(i for i in known if i in ends),
                None if is_companions else lookahead,  # which the companion knows nothing of
                streaming or watched,
                wants_every_step(asked),
                inputs,
                bad_words,
                parameters,
                form,
                PLAIN_MODEL if is_companions else ENGINE_MODEL,
                tuple(i for i in known if i not in ends),
            )
            jobs.append(Job(generation, ending, echo, form_fields))
        return jobs

    def _ebnf(self, asked: Sampling) -> Guide | None:
        """The form that a request asks a TensorRT engine for; raises `ApiError` for one that it cannot be held to."""
        found = named_guide(asked)
        if not found:
            return None
        field, guide = found
        if not self.is_guided:
            text = (
                f"{field} is not available with this engine, which was built before it could be guided: build it again"
            )
            raise ApiError(400, text, "unsupported", field)
        if asked.bad_words:
            raise ApiError(400, f"bad_words is not available with {field}: leave one out", "unsupported", "bad_words")
        try:
            return as_ebnf(guide)
        except FormError as error:
            raise ApiError(400, f"{field} is not available: {error}", "unsupported", field) from None

    def _draft_tokens(self, asked: Sampling, lookahead: LookaheadConfig | None) -> int | None:
        """The most draft tokens per step by matching suffixes; None where a request is not drafted for in that way."""
        if self.engine is not Engine.PORTABLE or asked.drafting == "lookahead":
            return None
        if asked.draft_tokens is not None:
            return asked.draft_tokens
        return MOST_DRAFTS if asked.drafting or (lookahead is None and self.profile.matches_suffixes) else None

    def headers(self, asked: Sampling, jobs: Sequence[Job]) -> Headers:
        """How an answer is decoded: a TensorRT engine with lookahead does it greedily whatever a client asks, its
        companion plainly, and a policy may choose the (w,n,g)."""
        first = jobs[0].generation
        lookahead = PLAIN if first.model == PLAIN_MODEL else first.lookahead or self.limits.lookahead
        suffixes = self._draft_tokens(asked, first.lookahead)
        config = PLAIN if suffixes is not None else lookahead
        usual = self.usual_drafter if suffixes == MOST_DRAFTS else SUFFIXES  # with fewer there is no room for a window
        named = (asked.drafting or usual).encode()
        drafting = named if suffixes else b"none" if config.is_plain else b"lookahead"
        return [
            (b"x-nimble-drafting", drafting),
            (b"x-nimble-decoding", b"sampling" if self.engine >= Engine.SAMPLING and samples(asked) else b"greedy"),
            (b"x-nimble-lookahead", ",".join(map(str, astuple(config))).encode()),
            *([] if suffixes is None else [(b"x-nimble-draft-tokens", b"%d" % suffixes)]),
            (b"cache-control", b"no-store"),
        ]


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


def wants_every_step(asked: Sampling) -> bool:
    """Whether decoding steps may not be merged on their way."""
    return isinstance(asked, OpenAISampling) and bool(asked.return_token_ids or asked.wants_log_probs)
