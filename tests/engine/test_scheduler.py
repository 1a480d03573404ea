"""Which tokens run in a step: the scheduler alone."""

from collections import abc

import numpy as np
import pytest

from build_engine.lookahead import PLAIN
from nimble_coder.contract.request import Request
from nimble_coder.engine.budget import Budget, StepCosts
from nimble_coder.engine.drafter import SUFFIXES, Texts, make_drafter
from nimble_coder.engine.kv_cache import KVCache
from nimble_coder.engine.scheduler import Prefill, Scheduler
from nimble_coder.engine.sequence import Limits, Sequence

SLOTS = 4


FREE = StepCosts({1: 0.01, 16: 0.01})


def scheduler(*prompts: int, costs: StepCosts = FREE, most: int = 64, owners: abc.Sequence[str] = ()) -> Scheduler:
    """One of `most` tokens a step, with prompts of so many tokens each that ask for one token."""
    entries = np.zeros((1, SLOTS, 1, 512, 1), np.float32)
    made = Scheduler(KVCache(entries, entries, reuse=False), most, Budget(costs))
    for number, length in enumerate(prompts):
        request = Request([3] * length, 1, lookahead=PLAIN, owner=owners[number] if owners else "")
        drafter = make_drafter(request, PLAIN, Texts(request.input_ids, ()), SUFFIXES)
        made.add(Sequence(number, request, drafter, Limits(512, 8)))
    return made


def steps(made: Scheduler) -> list[dict[int, int]]:
    """How many tokens of whose prompts each step reads."""
    read = list[dict[int, int]]()
    while work := made.schedule():
        read.append({each.sequence.request_id: len(each.tokens) for each in work if isinstance(each, Prefill)})
        for each in work:
            made.advance(each, [5])
        made.retire()
    return read


def test_the_shortest_prompt_is_read_first_but_half_of_a_step_is_for_the_one_that_came_first() -> None:
    assert steps(scheduler(250, 90, 20)) == [
        {2: 20, 1: 12, 0: 32},
        {1: 32, 0: 32},
        {1: 32, 0: 32},
        {1: 14, 0: 50},
        {0: 64},
        {0: 40},
    ]


def test_of_prompts_of_one_length_the_first_is_answered_as_early_as_if_it_were_alone() -> None:
    assert steps(scheduler(64, 64, 200)) == [{0: 64}, {1: 64}, {2: 64}, {2: 64}, {2: 64}, {2: 8}]


def test_what_is_left_of_a_step_is_the_next_prompts() -> None:
    assert steps(scheduler(10, 200)) == [{0: 10, 1: 54}, {1: 64}, {1: 64}, {1: 18}]


def test_where_rows_take_long_a_step_reads_no_more_than_streams_can_wait_for() -> None:
    costs = StepCosts({1: 1 / 64, 8: 2 / 64, 16: 4 / 64})
    assert steps(scheduler(150, costs=costs, most=512)) == [{0: 64}, {0: 64}, {0: 22}]
    slow = StepCosts({1: 0.1, 16: 1.0, 24: 2.0})
    assert steps(scheduler(70, costs=slow, most=512)) == [{0: 32}, {0: 32}, {0: 6}]


def begun(*owners: str) -> list[str]:
    """Whose sequences a scheduler begins at once."""
    made = scheduler(*[8] * len(owners), owners=owners)
    made.schedule()
    return [each.request.owner for each in made.running]


def test_the_last_slot_is_for_an_owner_that_has_none() -> None:
    assert begun(*["flood"] * 6, "another") == ["flood", "another", "flood"]
    assert begun("one", "another", *["flood"] * 6) == ["one", "another", "flood"]
    assert begun("one", "another", "third", *["flood"] * 6) == ["one", "another", "third", "flood"]


def test_one_owner_alone_has_all_slots_and_who_calls_no_more_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert begun(*["one"] * 6) == ["one"] * SLOTS
    assert begun(*[""] * 6) == [""] * SLOTS
    monkeypatch.setattr("nimble_coder.engine.scheduler.CALLER_SECONDS", 0.0)
    assert len(begun(*["flood"] * 6, "another")) == SLOTS
