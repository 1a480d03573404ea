"""How a request becomes generations (`delivery.py` has the way back)."""

from collections.abc import Sequence
from dataclasses import dataclass

from build_engine.artifact import ENGINE_MODEL, PLAIN_MODEL
from build_engine.lookahead import LookaheadConfig
from nimble_coder.contract.encoding import Generation
from nimble_coder.contract.fields import DRAFT_POOL, DRAFT_TOKENS, OWNER
from nimble_coder.contract.request import Guide
from nimble_coder.gateway.answers.calling import Calling
from nimble_coder.gateway.answers.transcript import Ending
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import Headers
from nimble_coder.gateway.requests.ebnf.grammar import FormError
from nimble_coder.gateway.requests.ebnf.guide import as_ebnf
from nimble_coder.gateway.requests.fields import Engine
from nimble_coder.gateway.requests.forms import guide_of, named_guide
from nimble_coder.gateway.requests.sampling import contract_inputs, samples
from nimble_coder.gateway.requests.schemas.sampling import OpenAISampling, SamplingFields
from nimble_coder.gateway.requests.token_rules import bad_words_of, parameters_of
from nimble_coder.gateway.service import Service

NO_CALLS = Calling()


@dataclass(frozen=True)
class Job:
    """One choice of an answer: what the engine is asked, what ends it, and what is repeated before it."""

    generation: Generation
    ending: Ending
    echo: str = ""
    form_fields: tuple[str, ...] = ()
    """What of the request asks for the form of the answer: an engine that refuses it does not know."""
    functions: tuple[str, ...] = ()
    """Those whose calls are held to the form, by which its rules are called."""


def make_jobs(
    service: Service,
    ids: list[int],
    asked: SamplingFields,
    max_tokens: int,
    streaming: bool,
    client: str,
    copies: int = 1,
    echo: str = "",
    calling: Calling = NO_CALLS,
) -> list[Job]:
    """The generations of a client's prompt, each of the most tokens that `room_of` gives; raises `ApiError` for what
    the engine must not see. They are held to the form of the calls, else to the one that the request asks for."""
    lookahead = service.drafting.lookahead(asked, len(ids), copies)
    form = calling.guide or form_of(service, asked)
    ends = end_ids_of(service, ids, asked, form)
    ending = ending_of(service, ids, asked, max_tokens, ends, form)
    parameters = engine_parameters(service, asked, lookahead, client)
    bad_words = bad_words_of(asked, service.encoder.raw)
    # The engine must go on where the gateway passes over an end id; text has to be watched as it comes.
    is_passing_over = ending.min_tokens and not service.profile.is_portable
    known = () if is_passing_over else [i for i in (*ends, *ending.stop_ids) if 0 <= i < service.limits.vocab_size]
    watched = bool(ending.stops or ending.min_tokens or ending.seconds_after_first_line)
    asked_form = named_guide(asked)
    form_fields = (*((asked_form[0],) if asked_form else ()), *((calling.offers_field,) if calling.guide else ()))
    jobs = []
    for copy in range(copies):
        inputs = contract_inputs(asked, service.engine, service.settings.strict_sampling, copy)
        is_companions = PLAIN_MODEL in service.engine_models and bool(inputs or bad_words or form)
        generation = Generation(
            ids,
            max(ending.asked_tokens, 1),  # 0 warms the cache: the token is not shown
            end_ids=tuple(i for i in dict.fromkeys(known) if i in ends),
            lookahead=None if is_companions else lookahead,  # which the companion knows nothing of
            streaming=streaming or watched,
            every_step=wants_every_step(asked),
            sampling=inputs,
            bad_words=bad_words,
            parameters=parameters,
            guide=form,
            model=PLAIN_MODEL if is_companions else ENGINE_MODEL,
            stop_ids=tuple(i for i in known if i not in ends),
        )
        jobs.append(Job(generation, ending, echo, form_fields, calling.held_functions))
    return jobs


def room_of(
    service: Service, ids: Sequence[int], asked: SamplingFields, wanted: int | None, default: int, field: str = "prompt"
) -> int:
    """The most tokens of an answer to a prompt, by default no fewer than it must have; raises `ApiError` for a prompt
    that cannot be taken, and where fewer are wanted, or fit behind it, than the answer must have."""
    service.limits.check_prompt(len(ids), field)
    least = asked.min_tokens or 0
    if wanted is not None and 0 <= wanted < least:
        text = f"min_tokens is {least}, above the most that is asked for, {wanted}: send less"
        raise ApiError(400, text, "invalid_input", "min_tokens")
    room = service.limits.room(len(ids), wanted, max(default, least))
    if room < least:
        text = f"min_tokens is {least}, and {room} tokens fit behind the prompt: send less"
        raise ApiError(400, text, "invalid_input", "min_tokens")
    return room


def form_of(service: Service, asked: SamplingFields) -> Guide | None:
    """The form that a request asks for; raises `ApiError` for one that a TensorRT engine cannot be held to."""
    if service.profile.is_portable:
        return guide_of(asked)
    found = named_guide(asked)
    if not found:
        return None
    field, guide = found
    if not service.is_guided:
        text = f"{field} is not available with this engine, which was built before it could be guided: build it again"
        raise ApiError(400, text, "unsupported", field)
    if asked.bad_words:
        raise ApiError(400, f"bad_words is not available with {field}: leave one out", "unsupported", "bad_words")
    try:
        return as_ebnf(guide)
    except FormError as error:
        raise ApiError(400, f"{field} is not available: {error}", "unsupported", field) from None


def end_ids_of(service: Service, ids: list[int], asked: SamplingFields, form: Guide | None) -> tuple[int, ...]:
    """The ids that end an answer without being asked for."""
    usual = tuple(service.tokenizer.end_ids)
    is_fim = service.encoder.id("<|fim_middle|>") in ids
    ends = () if asked.ignore_eos else service.encoder.fim_end_ids if is_fim else usual
    # TensorRT's engines must not go on behind the form's end.
    return (*ends, *usual) if form and not service.profile.is_portable else ends


def ending_of(
    service: Service, ids: list[int], asked: SamplingFields, max_tokens: int, ends: tuple[int, ...], form: Guide | None
) -> Ending:
    """What ends an answer. The portable engine forbids end ids for `min_tokens`; another one's are passed over here, so
    it is asked for as many tokens more. Raises `ApiError` for what is no token id, and for what an answer with a form
    cannot have."""
    min_tokens, spare = asked.min_tokens or 0, 0
    if not service.profile.is_portable:
        if form and asked.bad_words:
            text = "bad_words is not available here where an answer has a form: leave one out"
            raise ApiError(400, text, "unsupported", "bad_words")
        min_tokens = 0 if form else min_tokens  # an answer must not be asked to go on behind its form
        spare = max(min(min_tokens, service.limits.max_seq_len - len(ids) - max_tokens), 0)
    # Special tokens do not show in the text, so a stop string that spells one is looked for among the ids.
    asked_ids = service.encoder.check_ids(asked.stop_token_ids or (), service.limits.vocab_size, "stop_token_ids")
    stop_ids: dict[int, int | str] = {i: i for i in asked_ids}
    stop_ids |= {i: stop for stop in asked.stops if (i := service.encoder.control_id(stop)) is not None}
    return Ending(
        max_tokens=max_tokens,
        end_ids=frozenset(ends),
        stops=asked.stops,
        min_tokens=min_tokens,
        asked_tokens=max_tokens + spare,
        stop_ids=stop_ids,
        seconds_after_first_line=asked.predict_seconds,
        shows_stop=bool(asked.include_stop_str_in_output),
    )


def engine_parameters(
    service: Service, asked: SamplingFields, lookahead: LookaheadConfig | None, client: str
) -> tuple[tuple[str, str | float], ...]:
    """What the portable engine takes beside the contract: its own fields, and how to draft."""
    if not service.profile.is_portable:
        return ()
    parameters = (*parameters_of(asked, service.encoder.raw, service.limits.vocab_size), (OWNER, client))
    drafts = service.drafting.draft_tokens(asked, lookahead)
    if drafts is None:
        return parameters
    pool = client if service.settings.share_drafts else ""
    return (*parameters, (DRAFT_TOKENS, float(drafts)), (DRAFT_POOL, pool))


def wants_every_step(asked: SamplingFields) -> bool:
    """Whether decoding steps may not be merged on their way."""
    return isinstance(asked, OpenAISampling) and bool(asked.return_token_ids or asked.wants_log_probs)


def headers_of(service: Service, asked: SamplingFields, jobs: Sequence[Job]) -> Headers:
    """How an answer is decoded: a TensorRT engine with lookahead does it greedily whatever a client asks, its companion
    plainly."""
    is_sampled = service.engine >= Engine.SAMPLING and samples(asked)
    return [
        *service.drafting.headers(asked, jobs[0].generation),
        (b"x-nimble-decoding", b"sampling" if is_sampled else b"greedy"),
        (b"cache-control", b"no-store"),
    ]
