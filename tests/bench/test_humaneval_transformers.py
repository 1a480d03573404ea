"""`transformers`' own answer, from one that a service gave."""

import pytest
import torch
from transformers import Qwen2ForCausalLM

from nimble_coder.bench.humaneval_transformers import Compared, greedy, summary
from tests.conftest import EMBEDDED

PROMPT, MOST = [300, 17, 5], 24
NEVER = [99_999]


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)


@pytest.fixture(scope="module")
def own(model: Qwen2ForCausalLM) -> list[int]:
    """What it writes of itself, token by token."""
    ids = list(PROMPT)
    with torch.inference_mode():
        for _ in range(MOST):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize("agreed", [0, 1, 11, MOST - 1, MOST])
def test_an_answer_is_the_models_own_however_long_the_given_one_agrees(
    model: Qwen2ForCausalLM, own: list[int], agreed: int
) -> None:
    given = own[:agreed] + [token + 1 for token in own[agreed:]]
    assert greedy(model, PROMPT, given, NEVER, MOST) == own
    assert greedy(model, PROMPT, own[:agreed], NEVER, MOST) == own, "the given one ended too early"


def test_an_answer_ends_before_the_first_token_that_ends_it(model: Qwen2ForCausalLM, own: list[int]) -> None:
    end = own[10]
    expected = own[: own.index(end)]
    for given in (own, expected, [], [*own[:3], own[3] + 1]):
        assert greedy(model, PROMPT, given, [end], MOST) == expected


def test_the_summary_gives_both_rates_and_their_distance() -> None:
    found = [Compared(True, True, True), Compared(False, False, True), Compared(True, False, False)]
    line = summary([*found, Compared(True, True, True)])
    assert line.startswith(
        "pass@1 75.0 by transformers in fp32, 50.0 by the service (-25.0), on the same 4 problems; 3 "
    )
