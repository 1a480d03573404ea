"""Suffixes with lookahead's window beside them: when it joins, what it brings, and that no output depends on it."""

from dataclasses import replace

import pytest

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.contract.request import Request, Sampling
from nimble_coder.engine.budget import Budget, StepCosts
from nimble_coder.engine.drafter import LOOKAHEAD, SUFFIXES, WINDOWED, make_drafter
from nimble_coder.engine.generate import generate
from nimble_coder.engine.torch_engine import TorchEngine
from nimble_coder.engine.windowed import WINDOW
from nimble_coder.planning.replay import Recording, Step, replay
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED
from tests.engine.conftest import LoadEngine

FREE = StepCosts({1: 1.0, 16: 1.0})
BY_ROW = StepCosts({1: 1.0, 16: 2.0})
"""As a CPU's: sixteen rows take twice as long as one."""
PROMPT = [300 + i % 7 for i in range(40)]
NEW = list(range(100, 140))
"""A text without repetition: no suffix matches."""


def test_where_rows_are_free_the_window_joins_and_where_they_are_not_the_tree_is_that_of_suffixes() -> None:
    for prompt in (NEW, PROMPT[:12], [*NEW, 7, NEW[0]]):
        trees = [
            Budget(costs).cut([make_drafter(Request(prompt, 9, drafting=name), None).draft(prompt[-1], MOST_DRAFTS)])[0]
            for name, costs in ((WINDOWED, BY_ROW), (SUFFIXES, BY_ROW), (WINDOWED, FREE))
        ]
        assert trees[0].tokens == trees[1].tokens
        assert trees[0].extra_from is None
        assert trees[2].extra_from is not None
        assert 1 < len(trees[2]) <= MOST_DRAFTS + WINDOW.max_draft_tokens + 1


def test_steps_on_a_costly_machine_are_those_of_suffixes_to_the_end() -> None:
    recording = Recording(NEW, [*NEW[:20], 7, 8, 9, *NEW[:20], 5, 6, *NEW[10:30]])

    def steps(name: str) -> list[Step]:
        return replay([recording], lambda prompt: make_drafter(Request(prompt, 9, drafting=name), None), Budget(BY_ROW))

    assert steps(WINDOWED) == steps(SUFFIXES)


def test_a_window_that_brings_nothing_is_left_out_until_it_is_tried_again() -> None:
    budget = Budget(StepCosts({1: 1.0, 16: 1.25}))
    drafter, joined = make_drafter(Request(NEW, 9, drafting=WINDOWED), None), []
    for token in range(1000, 1100):
        (tree,) = budget.cut([drafter.draft(token - 1, MOST_DRAFTS)])
        joined.append(tree.extra_from is not None)
        drafter.update(tree, [9] * len(tree), [token])
    assert joined[0]
    first_without = joined.index(False)
    assert any(joined[first_without:])
    assert sum(joined) < 80


def test_who_asks_for_fewer_drafts_gets_suffixes_alone() -> None:
    for most in (0, MOST_DRAFTS - 1):
        request = Request(NEW, 9, drafting=WINDOWED, draft_tokens=most)
        (tree,) = Budget(FREE).cut([make_drafter(request, None).draft(NEW[-1], MOST_DRAFTS)])
        assert tree.tokens == [NEW[-1]]


def test_who_names_no_drafter_gets_the_usual_one_and_who_names_one_gets_that() -> None:
    def kind(request: Request, config: LookaheadConfig | None = None) -> str:
        return type(make_drafter(request, config, usual=WINDOWED)).__name__

    assert kind(Request(NEW, 9)) == "WindowedSuffixes"
    assert kind(Request(NEW, 9, drafting=SUFFIXES)) == "SuffixDrafter"
    assert kind(Request(NEW, 9, drafting=LOOKAHEAD), WINDOW) == kind(Request(NEW, 9), WINDOW) == "Lookahead"


@pytest.mark.usefixtures("free_rows")
@pytest.mark.parametrize("sampling", [None, Sampling(temperature=0.9), Sampling(temperature=1.1, top_p=0.9)])
def test_outputs_are_plain_decoding_s_together_and_with_prompts_in_the_cache(
    load_engine: LoadEngine, sampling: Sampling | None
) -> None:
    engine = load_engine(EMBEDDED, precision="bf16")
    requests = [Request(PROMPT[:length], 60, seed=length, sampling=sampling) for length in (40, 9, 1, 30, 40)]
    plain = generate(engine, [replace(each, lookahead=PLAIN) for each in requests])
    for _ in range(2):
        drafted = generate(engine, [replace(each, drafting=WINDOWED) for each in requests])
        assert [each.token_ids for each in drafted] == [each.token_ids for each in plain]
    counts = engine.statistics().drafting
    assert counts["lookahead"].accepted > 0
    assert sum(each.accepted for each in counts.values()) == engine.statistics().accepted_draft_tokens


@pytest.mark.usefixtures("free_rows")
def test_together_they_commit_at_least_as_much_as_the_better_one(load_engine: LoadEngine) -> None:
    tokenizer = TextTokenizer(EMBEDDED)
    prompts = [tokenizer.encode(text)[:200] for text in coding_prompts().values()]
    engine = load_engine(EMBEDDED, precision="bf16")
    plain = generate(engine, [Request(prompt, 96, lookahead=PLAIN) for prompt in prompts])
    steps = {}
    for name, lookahead in ((SUFFIXES, None), (LOOKAHEAD, WINDOW), (WINDOWED, None)):
        done = generate(engine, [Request(prompt, 96, lookahead=lookahead, drafting=name) for prompt in prompts])
        assert [each.token_ids for each in done] == [each.token_ids for each in plain]
        steps[name] = steps_of(engine)
    assert steps[WINDOWED] - steps[LOOKAHEAD] <= min(steps[SUFFIXES], steps[LOOKAHEAD] - steps[SUFFIXES])


def steps_of(engine: TorchEngine) -> int:
    """Decoding steps so far, summed over requests."""
    return engine.statistics().request_steps
