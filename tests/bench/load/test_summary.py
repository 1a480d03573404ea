"""What samples come to, worked out by hand."""

import pytest

from nimble_coder.bench.load.summary import percentiles, ratio, summarise
from nimble_coder.bench.load.target import Sample


def sample(sent: float, first: float, last: float, tokens: int, accepted: int = 0, drafted: int = 0) -> Sample:
    return Sample("p", sent, first, last, [last - first], 10, 0, tokens, accepted, drafted)


def test_times_and_rates_are_those_of_the_samples() -> None:
    found = summarise([[sample(0, 1, 3, 21), sample(0.5, 2, 4, 11)]])
    assert (found.requests, found.errors, found.tokens) == (2, 0, 32)
    assert found.seconds == 4
    assert found.tokens_per_second == 8
    assert found.stream_tokens_per_second == 7.5  # the median of 10 and 5
    assert found.ttft_ms == {"p50": 1000, "p90": 1500, "p99": 1500}
    assert found.itl_ms == {"p50": 100, "p90": 200, "p99": 200}
    assert found.tokens_per_step == 1
    assert found.acceptance is None


def test_tokens_per_step_leave_out_each_first_token_which_comes_from_the_prompt() -> None:
    found = summarise([[sample(0, 1, 2, 11, accepted=5, drafted=20)]])
    assert found.tokens_per_step == 2
    assert found.acceptance == 0.25


def test_rounds_add_up_their_own_times_and_not_the_time_between_them() -> None:
    found = summarise([[sample(0, 1, 2, 10)], [sample(100, 101, 102, 10)]])
    assert found.seconds == 4
    assert found.tokens_per_second == 5


def test_failed_requests_are_counted_and_change_nothing_else() -> None:
    failed = Sample("p", 0.0, error="refused")
    assert summarise([[sample(1, 2, 3, 5), failed]]).tokens_per_second == 2.5
    alone = summarise([[failed]])
    assert (alone.errors, alone.tokens, alone.tokens_per_second, alone.ttft_ms) == (1, 0, 0, {})


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 1, 1)), (10, (5, 9, 10)), (100, (50, 90, 99))])
def test_percentiles_are_values_that_were_seen(count: int, expected: tuple[int, int, int]) -> None:
    assert tuple(percentiles(range(count, 0, -1)).values()) == expected


def test_a_ratio_is_told_with_its_spread_over_the_rounds() -> None:
    before = [[sample(0, 1, 2, 10)]] * 3
    after = [[sample(0, 1, 2, tokens)] for tokens in (20, 30, 10)]
    assert str(ratio(lambda found: found.tokens_per_second, before, after)) == "2.00x (1.00-3.00)"
