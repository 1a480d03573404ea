"""The cost model on texts and steps whose figures are known."""

import pytest

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.engine.budget import Budget, StepCosts
from nimble_coder.planning.cost_model import CostModel, Gain, Way, beside
from nimble_coder.planning.replay import Recording, Step

CYCLE = [5, 6, 7, 8, 9]
REPEATS = Recording(CYCLE * 4, CYCLE * 8)
"""What drafts of five tokens a step are all right about."""
NOVEL = Recording(list(range(100, 120)), list(range(200, 241)))
"""What nothing can be drafted of."""
FREE = StepCosts({1: 0.01, 64: 0.01})
BY_ROW = StepCosts({1: 0.01, 64: 0.64})


def model(recording: Recording, costs: StepCosts, load: int = 1) -> CostModel:
    return CostModel([recording], {load: costs}, Budget(costs), {load: 100.0})


def test_where_rows_are_free_the_speed_is_what_drafting_gains() -> None:
    found = model(REPEATS, FREE)
    way = LookaheadConfig(1, 5, 1)
    assert found.gain(way, 1).tokens == pytest.approx(39 / 8, rel=0.01)
    assert found.speed_up(way, 1) == pytest.approx(39 / 8, rel=0.01)
    assert found.tokens_per_second(way, 1) == pytest.approx(100 * 39 / 8, rel=0.01)


def test_where_a_row_costs_a_step_the_speed_is_tokens_over_rows() -> None:
    found = model(REPEATS, BY_ROW)
    gain = found.gain(LookaheadConfig(1, 5, 1), 1)
    assert found.speed_up(LookaheadConfig(1, 5, 1), 1) == pytest.approx(gain.tokens / gain.rows)


@pytest.mark.parametrize("way", [LookaheadConfig(2, 4, 2), 16])
def test_a_text_that_repeats_nothing_gains_nothing(way: Way) -> None:
    found = model(NOVEL, BY_ROW)
    assert found.gain(way, 1).tokens == 1
    assert found.speed_up(way, 1) <= 1


def test_plain_decoding_is_as_fast_as_it_was_measured() -> None:
    assert model(REPEATS, BY_ROW).tokens_per_second(PLAIN, 1) == 100


def test_a_budget_never_slows_a_step_down_and_shrinks_where_many_share_it() -> None:
    waits = StepCosts({1: 1.0, 8: 1.0, 16: 2.0, 32: 4.0})
    alone, many = (model(REPEATS, waits, load) for load in (1, 16))
    assert alone.speed_up(16, 1) > many.speed_up(16, 16) >= 1
    assert alone.gain(16, 1).rows > many.gain(16, 16).rows


def test_sequences_beside_each_other_run_until_the_last_one_ends() -> None:
    short, long = [Step(1, 3, 2)], [Step(1, 5, 4), Step(1, 1, 1)]
    assert beside([short, long]) == [Step(2, 8, 6), Step(1, 1, 1)]
    assert Gain.of(beside([short, long])) == Gain(7 / 3, 3.0)
