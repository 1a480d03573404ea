"""Recorded outputs drafted anew take the steps that the engine takes."""

from collections.abc import Callable

import pytest

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.contract.request import Request
from nimble_coder.engine.budget import Budget, StepCosts
from nimble_coder.engine.drafter import Drafter, make_drafter
from nimble_coder.engine.generate import Generation, generate
from nimble_coder.engine.protocol import Statistics
from nimble_coder.engine.torch_engine import TorchEngine
from nimble_coder.planning.cost_model import Gain
from nimble_coder.planning.replay import Recording, replay
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED
from tests.engine.conftest import LoadEngine

FREE = Budget(StepCosts({1: 1.0, 16: 1.0}))
TOKENS = 64


def record(engine: TorchEngine, count: int) -> list[Recording]:
    """What the embedded model writes behind some of the coding prompts."""
    tokenizer = TextTokenizer(EMBEDDED)
    asked = [tokenizer.encode(text) for text in list(coding_prompts().values())[:count]]
    found = generate(engine, [Request(ids, TOKENS, lookahead=PLAIN) for ids in asked])
    return [Recording(ids, each.token_ids) for ids, each in zip(asked, found, strict=True)]


def suffixes(most: int | None) -> Callable[[list[int]], Drafter]:
    return lambda prompt: make_drafter(Request(prompt, TOKENS, draft_tokens=most), None)


def lookahead(config: LookaheadConfig) -> Callable[[list[int]], Drafter]:
    return lambda prompt: make_drafter(Request(prompt, TOKENS), config)


def committed(generation: Generation) -> list[int]:
    """Tokens by step; the first one comes from the prompt."""
    return [len(chunk) for chunk in generation.chunks[1:] if chunk]


@pytest.mark.usefixtures("free_rows")
def test_drafting_by_suffixes_takes_the_engine_s_steps_exactly(load_engine: LoadEngine) -> None:
    engine = load_engine(EMBEDDED, max_seq_len=512)
    for recording in record(engine, 6):
        for most in (0, 3, 32):
            ran = generate(engine, [Request(recording.prompt, TOKENS, draft_tokens=most, streaming=True)])[0]
            steps = replay([recording], suffixes(most), FREE)
            assert [step.tokens for step in steps] == committed(ran)
            assert max(step.rows for step in steps) <= most + 1


@pytest.mark.usefixtures("free_rows")
def test_requests_together_share_their_steps_as_on_the_engine(load_engine: LoadEngine) -> None:
    engine = load_engine(EMBEDDED, max_seq_len=512, max_num_tokens=512)
    recordings = record(engine, 4)
    before = engine.statistics()
    with engine._lock:  # so that all of them are there when the first step is scheduled
        asked = [Request(each.prompt, TOKENS, draft_tokens=16) for each in recordings]
        numbers = [engine.enqueue(request) for request in asked]
    ended = set[int]()
    while ended != set(numbers):
        ended |= {response.request_id for response in engine.responses(1.0) if response.is_final}
    after = engine.statistics()
    steps = replay(recordings, suffixes(16), FREE)
    assert sum(step.sequences for step in steps) == after.request_steps - before.request_steps
    assert len(steps) == after.iterations - before.iterations - 1  # the prompts' own
    drafted = after.drafting["text"].drafted - before.drafting["text"].drafted
    assert sum(step.rows - step.sequences for step in steps) == drafted


def test_lookahead_takes_nearly_the_engine_s_steps_though_its_window_is_not_recorded(load_engine: LoadEngine) -> None:
    engine = load_engine(EMBEDDED, max_seq_len=512)
    recordings = record(engine, 4)
    for config in (LookaheadConfig.parse(text) for text in ("1,2,1", "1,4,1", "2,4,4", "4,3,4", "4,5,4")):
        before = engine.statistics()
        generate(engine, [Request(each.prompt, TOKENS, lookahead=config) for each in recordings])
        ran = difference(before, engine.statistics())
        steps = [step for each in recordings for step in replay([each], lookahead(config), FREE)]
        found = Gain.of(steps)
        assert found.tokens == pytest.approx(ran.tokens, rel=0.05)
        assert found.rows == pytest.approx(ran.rows, rel=0.1)


def difference(before: Statistics, after: Statistics) -> Gain:
    """What an engine did between two snapshots."""
    steps = after.request_steps - before.request_steps
    accepted = after.accepted_draft_tokens - before.accepted_draft_tokens
    drafted = after.drafting["lookahead"].drafted - before.drafting["lookahead"].drafted
    return Gain(1 + accepted / steps, 1 + drafted / steps)


def test_a_cut_by_the_budget_is_the_engine_s_cut() -> None:
    recording = Recording([5, 6, 7, 8, 9, 5, 6], [7, 8, 9, 5, 6, 7, 8, 9, 5, 6, 7, 1])
    free = replay([recording], suffixes(16), FREE)
    dear = replay([recording], suffixes(16), Budget(StepCosts({1: 1.0, 16: 16.0})))
    assert {step.rows for step in dear} == {1}
    assert len(dear) == len(recording.output) - 1 > len(free)
    assert sum(step.tokens for step in free) == sum(step.tokens for step in dear) == len(recording.output) - 1
