"""The budget of rows: what a step costs decides which drafts it has."""

import pytest

from nimble_coder.engine import budget
from nimble_coder.engine.budget import ROWS_ON_CPU, Budget, StepCosts
from nimble_coder.engine.tree import TokenTree

FREE = StepCosts({1: 1.0, 16: 1.0})
BY_ROW = StepCosts({1: 1.0, 16: 16.0})
WAITS = StepCosts({1: 1.0, 4: 1.0, 8: 1.5, 16: 2.5})
"""As a CPU that reads its weights."""


def chain(*likelihoods: float) -> TokenTree:
    tree, node = TokenTree(0), 0
    for token, likelihood in enumerate(likelihoods, start=1):
        node = tree.add(node, token, likelihood)
    return tree


def test_rows_that_cost_nothing_take_every_draft_and_rows_that_cost_as_much_as_the_first_none() -> None:
    tree = chain(0.9, 0.5, 0.1)
    assert Budget(FREE).cut([tree]) == [tree]
    assert Budget(BY_ROW).cut([tree])[0].tokens == [0]


def test_the_likeliest_drafts_of_all_sequences_are_taken_first() -> None:
    sure, unsure = chain(0.95, 0.9, 0.85), chain(0.2, 0.1)
    cut = Budget(WAITS).cut([sure, unsure])
    assert [len(tree) for tree in cut] == [4, 1]


@pytest.mark.parametrize("most", range(1, 6))
def test_a_draft_thought_likelier_than_its_parent_by_rounding_is_not_kept_without_it(most: int) -> None:
    """Wherever the cut falls: the shares of the tables are rounded, and some add up to a little more than one."""
    cliff = StepCosts({1: 1.0, most: 1.0, most + 1: 100.0} if most > 1 else {1: 1.0, 2: 100.0})
    for tree in (chain(0.17192999, 0.17193, 0.17193001, 0.17193002), chain(1.0000001, 1.0000002, 0.5, 0.5000001)):
        (cut,) = Budget(cliff).cut([tree])
        assert cut.tokens == tree.tokens[: len(cut)]
        assert cut.likelihoods == sorted(cut.likelihoods, reverse=True)


def test_many_sequences_leave_room_for_sure_drafts_only() -> None:
    alone = Budget(WAITS).cut([chain(0.6, 0.3)])
    among = Budget(WAITS).cut([chain(0.6, 0.3), chain(0.97), *[chain() for _ in range(10)]])
    assert [len(tree) for tree in alone] == [3]
    assert [len(tree) for tree in among[:2]] == [1, 2]


def test_a_row_has_to_bring_a_fifth_more_than_it_costs() -> None:
    costs = StepCosts({1: 1.0, 2: 1.5, 3: 2.0})
    assert [len(Budget(costs).cut([chain(likelihood)])[0]) for likelihood in (0.55, 0.8)] == [1, 2]


def test_where_the_next_tile_of_rows_begins_no_draft_is_worth_its_row() -> None:
    costs = StepCosts({8: 1.0, 12: 1.05, 16: 1.6})
    cut = Budget(costs).cut([chain(0.5)] * 8)
    assert sum(map(len, cut)) == 12


def test_a_prompt_in_the_same_step_makes_no_draft_worth_more() -> None:
    trees = [chain(0.3, 0.2)] * 6
    sure, *unsure = Budget(WAITS).cut([chain(0.97), *trees], other_rows=200)
    assert [len(sure), *map(len, unsure)] == [2, 1, 1, 1, 1, 1, 1]


def test_what_must_stay_stays_with_what_it_stands_on() -> None:
    tree = chain(0.2, 0.1)
    tree.add_path(0, [1, 2, 3])  # a form's text goes the same way
    other = tree.add(0, 9, 0.2)
    cut = Budget(BY_ROW).cut([tree])[0]
    assert (cut.tokens, cut.depths) == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert other not in range(len(cut))
    assert cut.child(1, 2) == 2
    assert cut.visible == [0b1, 0b11, 0b111, 0b1111]


def test_a_curve_that_was_measured_unevenly_does_not_fall() -> None:
    costs = StepCosts({1: 2.0, 2: 1.8, 4: 3.0})
    assert [costs.of(rows) for rows in (1, 2, 3, 4, 6)] == pytest.approx([2.0, 2.0, 2.5, 3.0, 4.0])


def test_a_step_costs_no_more_than_as_many_of_fewer_rows() -> None:
    costs = StepCosts({1: 1.0, 2: 1.0, 4: 9.0, 8: 3.0})
    assert [costs.of(rows) for rows in (1, 2, 4, 8)] == pytest.approx([1.0, 1.0, 2.0, 3.0])


def test_measuring_takes_the_least_of_several_times() -> None:
    asked: list[int] = []

    def seconds(rows: int) -> float:
        asked.append(rows)
        return rows + (5.0 if asked.count(rows) == 2 else 0.0)

    costs = StepCosts.measure(seconds)
    assert [costs.of(rows) for rows in ROWS_ON_CPU] == list(ROWS_ON_CPU)


def test_a_disturbance_while_steps_are_timed_bends_no_curve() -> None:
    asked: list[int] = []

    def seconds(rows: int) -> float:
        asked.append(rows)
        return rows * (3e-3 if len(asked) <= 2 * len(ROWS_ON_CPU) else 1e-3)

    costs = StepCosts.measure(seconds)
    assert [costs.of(rows) for rows in ROWS_ON_CPU] == pytest.approx([rows * 1e-3 for rows in ROWS_ON_CPU])


@pytest.mark.parametrize(("seconds_of_a_row", "rounds"), [(1e-3, 5), (0.005, 4), (0.1, 2)])
def test_a_large_models_start_waits_for_fewer_rounds(
    seconds_of_a_row: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def seconds(rows: int) -> float:
        asked.append(rows)
        return rows * seconds_of_a_row

    monkeypatch.setattr(budget, "perf_counter", lambda: sum(asked) * seconds_of_a_row)
    StepCosts.measure(seconds)
    assert asked.count(1) == rounds


def test_a_step_between_two_points_tells_of_both() -> None:
    costs = StepCosts({1: 1.0, 8: 1.0, 16: 1.0})
    for _ in range(100):
        costs.observe(1, 1.0)
        costs.observe(12, 2.0)
    assert costs.of(8) == costs.of(16) > 1.2


def test_the_curve_follows_what_is_seen_and_not_the_machine_s_speed() -> None:
    slower, bent = StepCosts({1: 1.0, 8: 1.0, 16: 1.0}), StepCosts({1: 1.0, 8: 1.0, 16: 1.0})
    for _ in range(300):
        for rows in (1, 8, 16):
            slower.observe(rows, 3.0)
            bent.observe(rows, 3.0 if rows == 16 else 1.0)
    assert slower.of(16) / slower.of(1) == pytest.approx(1.0, abs=0.05)
    assert bent.of(16) / bent.of(1) > 1.8
    for _ in range(3000):
        bent.observe(1, 1.0)  # what is not seen any more is forgotten
    assert bent.of(16) / bent.of(1) < 1.2


def test_the_rows_of_a_step_of_so_many_seconds_are_told_by_the_last_measured_ones() -> None:
    costs = StepCosts({1: 1.0, 8: 1.0, 16: 2.0})
    assert (costs.rows_within(1.5), costs.rows_within(2.0), costs.rows_within(4.0)) == (0.0, 16.0, 32.0)
    assert FREE.rows_within(1.0) == float("inf")
