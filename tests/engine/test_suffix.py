"""Drafting by matching suffixes: what is drafted, and that no output depends on it."""

import random
from dataclasses import replace

import pytest

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.contract.request import Request, RequestError, Sampling
from nimble_coder.engine.corpus import LONGEST_MATCH
from nimble_coder.engine.generate import generate
from nimble_coder.engine.suffix import SuffixDrafter
from tests.conftest import EMBEDDED
from tests.engine.conftest import LoadEngine

LONG = list(range(100, 100 + LONGEST_MATCH + 4))
PROMPT = [300 + i % 7 for i in range(40)]


def test_a_sure_match_gives_a_chain_of_what_followed() -> None:
    drafter = SuffixDrafter([*LONG, 1, 2, 3, 4, 5, 6, *LONG], most=5)
    tree = drafter.draft(LONG[-1])
    assert tree.tokens == [LONG[-1], 1, 2, 3, 4, 5]
    assert tree.depths == [0, 1, 2, 3, 4, 5]


def test_an_unsure_match_drafts_little_and_no_match_nothing() -> None:
    assert max(SuffixDrafter([7, 1, 2, 3, 4, 7], most=16).draft(7).likelihoods[1:]) < 0.3
    assert SuffixDrafter([1, 2, 3, 9], most=16).draft(9).tokens == [9]


def test_continuations_are_drafted_by_how_often_they_came() -> None:
    text = [8, 5, 6, 1, 9, 5, 6, 2, 7, 5, 6, 1, 4, 5, 6]
    tree = SuffixDrafter(text, most=1).draft(6)
    assert tree.tokens == [6, 1]


def test_a_longer_match_counts_for_more_than_a_newer_one() -> None:
    text = [*LONG, 1, 50, LONG[-2], LONG[-1], 2, 50, *LONG]
    assert SuffixDrafter(text, most=1).draft(LONG[-1]).tokens == [LONG[-1], 1]


def test_the_output_is_matched_as_the_prompt_is() -> None:
    drafter = SuffixDrafter([9, 9], most=3)
    for token in [*LONG, 1, 2, 3, *LONG]:
        drafter.commit([token])
    assert drafter.draft(LONG[-1]).tokens == [LONG[-1], 1, 2, 3]


@pytest.mark.parametrize("most", [0, 1, 5, MOST_DRAFTS])
def test_no_tree_is_larger_or_deeper_than_was_asked_for(most: int) -> None:
    rng = random.Random(most)
    drafter = SuffixDrafter([rng.randrange(4) for _ in range(200)], most)
    for _ in range(100):
        token = rng.randrange(4)
        drafter.commit([token])
        tree = drafter.draft(token)
        assert len(tree) <= most + 1
        assert max(tree.depths) <= drafter.longest_path


@pytest.mark.parametrize(
    "sampling", [None, Sampling(temperature=0.7), Sampling(temperature=0.8, top_p=0.9, log_probs=True)]
)
def test_the_output_is_plain_decoding_s(load_engine: LoadEngine, sampling: Sampling | None, free_rows: None) -> None:
    engine = load_engine(EMBEDDED, lookahead=LookaheadConfig(2, 3, 2), precision="bf16")
    requests = [
        Request(PROMPT[:length], 150, seed=length, sampling=sampling, draft_tokens=most)
        for length, most in ((40, 16), (40, MOST_DRAFTS), (9, 3), (1, 8), (30, 0))
    ]
    plain = generate(engine, [replace(each, draft_tokens=None, lookahead=PLAIN) for each in requests])
    drafted = generate(engine, requests)
    assert [each.token_ids for each in drafted] == [each.token_ids for each in plain]
    assert [each.log_probs for each in drafted] == [each.log_probs for each in plain]
    accepted = [each.metrics.total_accepted_draft_tokens for each in drafted if each.metrics]
    assert accepted[0] > 0
    assert accepted[-1] == 0


@pytest.mark.parametrize("draft_tokens", [-1, MOST_DRAFTS + 1])
def test_what_cannot_be_drafted_is_refused(load_engine: LoadEngine, draft_tokens: int) -> None:
    with pytest.raises(RequestError, match=r"draft_tokens .* out of range"):
        load_engine().enqueue(Request(PROMPT, 4, draft_tokens=draft_tokens))
