"""The portable engine answers problems as they would be asked through the service."""

from collections.abc import Iterator

import pytest

from build_engine.lookahead import PLAIN
from nimble_coder.bench.checkpoint_engine import EMBEDDED_MODEL, checkpoint_engine
from nimble_coder.bench.coding_prompts import CHAT
from nimble_coder.bench.humaneval import FENCE
from nimble_coder.bench.humaneval_engine import write
from nimble_coder.bench.load.drafting import Drafting
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import generate
from nimble_coder.engine.protocol import Engine
from nimble_coder.engine.torch_engine import TorchEngineOptions
from nimble_coder.text.tokenizer import TextTokenizer

MOST = 48
PROBLEMS = [{"task_id": f"HumanEval/{name}", "prompt": f"def {name}(a, b):\n"} for name in ("add", "multiply", "least")]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with checkpoint_engine(EMBEDDED_MODEL, "fp32", [PLAIN], TorchEngineOptions(threads=1, device="cpu")) as made:
        yield made


@pytest.mark.parametrize("drafting", ["plain", "draft:4"])
def test_problems_asked_at_once_get_greedy_answers_up_to_what_ends_them(engine: Engine, drafting: str) -> None:
    tokenizer = TextTokenizer(EMBEDDED_MODEL)
    answers = write(engine, tokenizer, [(problem, 0) for problem in PROBLEMS], MOST, Drafting.parse(drafting))
    ends = {*tokenizer.end_ids, *tokenizer.encode(FENCE)}
    for problem, answer in zip(PROBLEMS, answers, strict=True):
        prompt = tokenizer.encode(CHAT.format(problem=problem["prompt"]))
        [alone] = generate(engine, [Request(prompt, MOST, lookahead=PLAIN)])
        end = next((i for i, token in enumerate(alone.token_ids) if token in ends), MOST)
        assert answer.token_ids == alone.token_ids[:end]
        assert answer.tokens == min(end + 1, MOST)
        assert answer.text == tokenizer.decode(answer.token_ids).partition(FENCE)[0]
        assert (answer.task, answer.passed) == (problem["task_id"], None)
    drafted = sum(answer.accepted_drafts for answer in answers)
    assert (drafted > 0) == (drafting != "plain")


def test_a_problem_is_sampled_by_its_seeds(engine: Engine) -> None:
    tokenizer = TextTokenizer(EMBEDDED_MODEL)
    asked = [(PROBLEMS[0], seed) for seed in (1, 2, 1)]
    answers = write(engine, tokenizer, asked, MOST, Drafting.parse("draft:4"), temperature=1.5)
    assert [answer.seed for answer in answers] == [1, 2, 1]
    assert answers[0].token_ids == answers[2].token_ids != answers[1].token_ids
