"""`transformers`' own answer, from one that a service gave."""

from __future__ import annotations  # the models' classes take seconds to load

import pytest
import torch
import transformers

from nimble_coder.bench.coding_prompts import CHAT
from nimble_coder.bench.humaneval import Answer
from nimble_coder.bench.humaneval_transformers import greedy, write
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED

PROMPT, MOST = [300, 17, 5], 24
NEVER = [99_999]


@pytest.fixture(scope="module")
def model() -> transformers.Qwen2ForCausalLM:
    return transformers.Qwen2ForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)


@pytest.fixture(scope="module")
def own(model: transformers.Qwen2ForCausalLM) -> list[int]:
    """What it writes of itself, token by token."""
    ids = list(PROMPT)
    with torch.inference_mode():
        for _ in range(MOST):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize("agreed", [0, 1, 11, MOST - 1, MOST])
def test_an_answer_is_the_models_own_however_long_the_given_one_agrees(
    model: transformers.Qwen2ForCausalLM, own: list[int], agreed: int
) -> None:
    given = own[:agreed] + [token + 1 for token in own[agreed:]]
    assert greedy(model, PROMPT, given, NEVER, MOST) == own
    assert greedy(model, PROMPT, own[:agreed], NEVER, MOST) == own, "the given one ended too early"


def test_an_answer_ends_before_the_first_token_that_ends_it(
    model: transformers.Qwen2ForCausalLM, own: list[int]
) -> None:
    end = own[10]
    expected = own[: own.index(end)]
    for given in (own, expected, [], [*own[:3], own[3] + 1]):
        assert greedy(model, PROMPT, given, [end], MOST) == expected


def test_a_problem_gets_the_models_text_whatever_was_given(model: transformers.Qwen2ForCausalLM) -> None:
    tokenizer = TextTokenizer(EMBEDDED)
    problem = {"task_id": "HumanEval/x", "prompt": "def add(a, b):\n"}
    prompt = tokenizer.encode(CHAT.format(problem=problem["prompt"]))
    expected = greedy(model, prompt, [], tokenizer.end_ids, 8)
    given = Answer("HumanEval/x", "", 3, 2, 1.0, True, [*expected[:2], expected[2] + 1])
    answer = write(model, tokenizer, problem, given, 8)
    assert (answer.token_ids, answer.text) == (expected, tokenizer.decode(expected))
    assert (answer.task, answer.passed, answer.accepted_drafts) == ("HumanEval/x", None, 0)
