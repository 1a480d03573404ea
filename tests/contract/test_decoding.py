"""What a Triton request asks an engine for: what holds for a whole batch, and request parameters."""

from typing import Any

import numpy as np
import pytest

from nimble_coder.contract.decoding import is_stop, read_call
from nimble_coder.contract.request import Request, RequestError

ROWS = {
    "input_ids": np.array([[1, 2], [3, 4]], np.int32),
    "input_lengths": np.array([[2], [2]], np.int32),
    "request_output_len": np.array([[1], [1]], np.int32),
}


def read(**parameters: object) -> Request:
    return read_call(ROWS, True, parameters).requests[0]


@pytest.mark.parametrize("values", [[1, 2], [2, 1]])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("num_return_sequences", np.int32), ("return_log_probs", np.bool_), ("exclude_input_in_output", np.bool_)],
)
def test_what_holds_for_a_batch_may_not_differ_between_its_rows(name: str, kind: Any, values: list[int]) -> None:
    odd = {name: np.array([[value - 1 if kind is np.bool_ else value] for value in values], kind)}
    with pytest.raises(RequestError, match=f"{name} is not the same in all rows"):
        read_call({**ROWS, **odd}, True)
    read_call({**ROWS, name: np.ones((2, 1), kind)}, True)


def test_a_stop_of_some_rows_is_refused() -> None:
    with pytest.raises(RequestError, match="stop is not the same"):
        is_stop({**ROWS, "stop": np.array([[False], [True]])})


@pytest.mark.parametrize(("name", "value"), [("beam_width", 2), ("return_context_logits", True)])
def test_what_is_not_available_is_refused_in_any_row(name: str, value: int) -> None:
    with pytest.raises(RequestError, match=name):
        read_call({**ROWS, name: np.array([[value - 1], [value]])}, True)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("draft_tokens", 3.5, "whole number"),
        ("draft_tokens", -0.5, "whole number"),
        ("draft_tokens", True, "not a number"),
        ("top_logprobs", 2.5, "whole number"),
        ("top_logprobs", "many", "not a number"),
        ("min_p", "nan", "not a number"),
        ("min_p", float("inf"), "not a number"),
        ("prompt_logprobs", 0.5, "true or false"),
        ("prompt_logprobs", 2, "true or false"),
        ("logit_bias", '{"1": true}', "numbers by token id"),
        ("logit_bias", '{"1": "5"}', "numbers by token id"),
        ("logit_bias", f'{{"1": 1{"0" * 400}}}', "numbers by token id"),
        ("logit_bias", f'{{"1": 1{"0" * 5000}}}', "numbers by token id"),
        ("logit_bias", "[1]", "numbers by token id"),
        ("logit_bias", 5, "numbers by token id"),
    ],
)
def test_a_parameter_that_is_not_what_it_has_to_be_is_refused(name: str, value: object, reason: str) -> None:
    with pytest.raises(RequestError, match=f"{name} is .*{reason}"):
        read(**{name: value})


def test_parameters_come_as_numbers_or_as_their_texts() -> None:
    """From one model to another Triton passes no fractions on."""
    for given in ({"min_p": 0.25, "draft_tokens": 3.0}, {"min_p": "0.25", "draft_tokens": "3"}):
        request = read(**given)
        assert request.sampling is None  # a cut does not change the greedy choice
        assert request.draft_tokens == 3
    sampling = read(min_p="0.25", logit_bias='{"7": -1}', prompt_logprobs=True).sampling
    assert sampling
    assert (sampling.min_p, sampling.logit_bias, sampling.prompt_log_probs) == (0.25, ((7, -1.0),), True)
