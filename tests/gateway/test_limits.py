"""What the engine can take is known before it is asked."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Gauge

from build_engine.lookahead import PLAIN, LookaheadConfig, portable_limit
from nimble_coder.gateway.access.keys import ApiKeys
from nimble_coder.gateway.access.ledger import Ledger
from nimble_coder.gateway.access.limits import Admission, EngineLimits, engine_lost
from nimble_coder.gateway.errors import ApiError

LIMITS = EngineLimits(32, 6144, 8192, 4096, LookaheadConfig(8, 8, 8), LookaheadConfig(8, 8, 8))


@pytest.mark.parametrize(("length", "chosen"), [(1, PLAIN), (6, PLAIN), (7, None), (100, None)])
def test_a_prompt_shorter_than_n_minus_1_is_decoded_plainly(length: int, chosen: LookaheadConfig | None) -> None:
    assert LIMITS.choose_lookahead(None, length) == chosen


@pytest.mark.parametrize("asked", [LookaheadConfig(9, 8, 8), LookaheadConfig(8, 9, 8), LookaheadConfig(8, 8, 9)])
def test_more_than_the_engines_lookahead_is_refused(asked: LookaheadConfig) -> None:
    with pytest.raises(ApiError, match=r"exceeds the engine's \(8,8,8\)"):
        LIMITS.choose_lookahead(asked, 100)


def test_a_plain_engine_is_sent_no_lookahead_at_all() -> None:
    plain = EngineLimits(32, 6144, 8192, 4096, PLAIN, PLAIN)
    assert plain.choose_lookahead(None, 1) is None
    assert plain.choose_lookahead(PLAIN, 1) is None
    with pytest.raises(ApiError, match="exceeds"):
        plain.choose_lookahead(LookaheadConfig(4, 3, 4), 100)


@pytest.mark.parametrize("length", [0, 6145])
def test_prompts_without_room_are_refused(length: int) -> None:
    with pytest.raises(ApiError, match="prompt"):
        LIMITS.check_prompt(length)


@pytest.mark.parametrize("limits", [LIMITS, EngineLimits(32, 8191, 8192, 4096, PLAIN, PLAIN)])
def test_a_prompt_that_leaves_room_for_one_token_of_the_told_length_is_taken(limits: EngineLimits) -> None:
    limits.check_prompt(limits.max_model_len - 1)
    with pytest.raises(ApiError, match="at most"):
        limits.check_prompt(limits.max_model_len)


@pytest.mark.parametrize(
    ("prompt", "asked", "room"),
    [
        (100, None, 16),
        (100, 5, 5),
        (8000, 4096, 192),
        (8000, -1, 192),
        (8000, -2, 192),
        (8000, 2**63 - 1, 192),
        (100, 0, 0),
    ],
)
def test_max_tokens_is_cut_to_what_fits(prompt: int, asked: int | None, room: int) -> None:
    assert LIMITS.room(prompt, asked, 16) == room


ME = "a client"


def admission(limit: int, keys: str = "") -> Admission:
    return Admission(limit, Ledger(), Gauge("running", "x", registry=CollectorRegistry()), ApiKeys(keys.split()))


@pytest.mark.parametrize(
    ("keys", "limit", "most"),
    [("", 8, 8), ("one", 8, 8), ("one one", 8, 8), ("one two", 8, 6), ("one two", 3, 2), ("one two three", 1, 1)],
)
def test_one_of_several_keys_leaves_places_for_those_who_have_none(keys: str, limit: int, most: int) -> None:
    places = admission(limit, keys)
    for _ in range(most):
        places.enter("first")
    with pytest.raises(ApiError, match=f"{most} generations are running or waiting, {limit} is the limit") as caught:
        places.enter("first")
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    for number in range(limit - most):
        places.enter(f"other {number}")
        with pytest.raises(ApiError, match="for clients who have none"):
            places.enter(f"other {number}")
    with pytest.raises(ApiError, match="try again shortly"):
        places.enter("who comes late")
    places.leave("first", most)
    places.enter("first")
    assert places.active == limit - most + 1


def test_one_request_takes_no_more_than_one_client_may_have() -> None:
    with pytest.raises(ApiError, match="7 answers in one request, 6 generations at once is the limit"):
        admission(8, "one two").enter(ME, 7)
    admission(8, "one two").enter(ME, 6)
    admission(8).enter(ME, 8)


def test_places_are_given_back_also_after_an_error() -> None:
    async def use(places: Admission) -> None:
        with pytest.raises(ZeroDivisionError), places.admit(ME, 2):
            with pytest.raises(ApiError, match="2 is the limit"), places.admit(ME):
                pass
            raise ZeroDivisionError
        assert places.active == places.own == 0
        places.draining = True
        with pytest.raises(ApiError, match="shutting down"), places.admit(ME):
            pass

    asyncio.run(use(admission(2)))


def test_more_answers_than_there_are_places_will_never_be_given() -> None:
    with pytest.raises(ApiError, match="5 answers in one request, 2 generations at once is the limit") as caught:
        admission(2).enter(ME, 5)
    assert (caught.value.status, caught.value.retry_after) == (400, None)


def test_generations_of_a_lost_engine_end_with_503_and_those_that_are_cancelled_do_not() -> None:
    async def generate(places: Admission) -> None:
        with places.admit(ME):
            await asyncio.sleep(60)

    async def lose(places: Admission) -> None:
        lost, cancelled = (asyncio.create_task(generate(places)) for _ in range(2))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        places.abandon(engine_lost())
        with pytest.raises(ApiError, match="the engine has failed") as caught:
            await lost
        assert (caught.value.status, caught.value.code) == (503, "engine_lost")
        assert places.active == 0

    asyncio.run(lose(admission(8)))


def test_a_portable_engine_takes_more_than_it_was_built_for() -> None:
    limits = EngineLimits(8, 6144, 8192, 4096, LookaheadConfig(1, 4, 1), portable_limit(LookaheadConfig(1, 4, 1)))
    assert limits.choose_lookahead(None, 50) is None
    assert limits.choose_lookahead(LookaheadConfig(8, 8, 8), 50) == LookaheadConfig(8, 8, 8)
    with pytest.raises(ApiError, match=r"exceeds the engine's \(8,8,8\)"):
        limits.choose_lookahead(LookaheadConfig(9, 3, 1), 50)
