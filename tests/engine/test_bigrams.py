"""What follows a token at large: the table that ships, in which language a text is, and that no output hangs on it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.contract.request import Request, Sampling
from nimble_coder.engine.bigrams import MARKS, MOST, Bigrams, Guesses, bigrams
from nimble_coder.engine.generate import generate
from nimble_coder.engine.suffix import LEAST, SuffixDrafter
from nimble_coder.text.added_tokens import added_tokens
from tests.conftest import EMBEDDED
from tests.engine.conftest import LoadEngine
from training.bigrams import shares, table

CONTROL = {"<|fim_prefix|>": MARKS.prefix, "<|fim_suffix|>": MARKS.suffix, "<|fim_middle|>": MARKS.middle}


def made(languages: list[dict[int, dict[int, float]]]) -> Bigrams:
    """A table of each language's shares by token."""
    arrays = table(languages)
    rows = np.full(int(arrays["tokens"][-1]) + 1, -1, np.int32)
    rows[arrays["tokens"]] = np.arange(len(arrays["tokens"]))
    return Bigrams(rows, arrays["following"], arrays["shares"] / np.float32(255))


def test_the_table_is_that_of_qwen_s_tokenizer_and_of_no_other() -> None:
    found = Bigrams.among(CONTROL)
    assert found is bigrams()
    assert Bigrams.among(added_tokens(EMBEDDED)) is None
    assert Bigrams.among({}) is None
    assert found.following.shape == found.shares.shape[:2] == (found.rows.max() + 1, MOST)
    assert found.following.max() < MARKS.prefix
    assert ((found.shares > 0).any(axis=2) == (found.following >= 0)).all()
    assert found.shares.sum(axis=1).max() <= 1.0001 + MOST / 510  # each is rounded to 1/255
    assert found.rows[0] >= 0
    assert found.row(-1) == found.row(10**9) == -1


def test_a_text_tells_its_language() -> None:
    found = made([{1: {2: 0.9}, 2: {1: 0.9}, 5: {6: 0.8}}, {3: {4: 0.9}, 4: {3: 0.9}, 5: {7: 0.8}}])
    guesses = Guesses(found, [1, 2] * 10)
    assert dict(guesses.behind(5)) == {6: pytest.approx(0.8, abs=0.01), 7: pytest.approx(0.0, abs=0.01)}
    guesses.extend([3, 4] * 20)
    assert dict(guesses.behind(5)) == {6: pytest.approx(0.0, abs=0.01), 7: pytest.approx(0.8, abs=0.01)}
    assert guesses.behind(9) == guesses.behind(-4) == []
    even = dict(Guesses(found, []).behind(5))
    assert even == {6: pytest.approx(0.4, abs=0.01), 7: pytest.approx(0.4, abs=0.01)}


def test_they_are_drafted_where_the_text_says_nothing() -> None:
    found = made([{1: {2: 0.9}, 2: {3: 0.6, 4: 0.3}, 3: {1: 0.3}}])
    assert SuffixDrafter([8, 1], most=16).draft(1).tokens == [1]
    tree = SuffixDrafter([8, 1], most=3, bigrams=found).draft(1)
    assert (tree.tokens, tree.depths, tree.source) == ([1, 2, 3, 4], [0, 1, 2, 2], "bigrams")
    assert tree.likelihoods == pytest.approx([1.0, 0.9, 0.54, 0.27], abs=0.01)
    assert SuffixDrafter([8, 1], most=0, bigrams=found).draft(1).tokens == [1]


def test_what_the_text_says_goes_first_and_leaves_the_rest_to_them() -> None:
    found = made([{7: {1: 0.5, 9: 0.5}}])
    alone = SuffixDrafter([7, 1, 2, 7], most=16).draft(7)
    both = SuffixDrafter([7, 1, 2, 7], most=16, bigrams=found).draft(7)
    assert both.source == alone.source == "text"
    sure = alone.likelihoods[1]
    assert both.likelihoods[both.child(0, 1) or 0] == pytest.approx(sure + (1 - sure) / 2, abs=0.01)
    assert both.likelihoods[both.child(0, 9) or 0] == pytest.approx((1 - sure) / 2, abs=0.01)
    for parent, node in both.edges():
        assert LEAST <= both.likelihoods[node] <= both.likelihoods[parent]


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=0.7, top_p=0.9)])
def test_the_output_is_plain_decoding_s(load_engine: LoadEngine, sampling: Sampling | None, free_rows: None) -> None:
    engine = load_engine(EMBEDDED, lookahead=LookaheadConfig(2, 3, 2), precision="bf16")
    requests = [Request([300 + i * i % 41 for i in range(n)], 60, seed=n, sampling=sampling) for n in (30, 9, 20)]
    requests = [replace(each, drafting="suffixes") for each in requests]
    plain = generate(engine, [replace(each, drafting="", lookahead=PLAIN) for each in requests])
    followed = Counter(pair for each in plain for pair in zip(each.token_ids, each.token_ids[1:], strict=False))
    wrong = {token: {(token + 1) % 4096: 0.9} for token in range(4096)}
    for language in (wrong, shares(Counter({pair: 8 * count for pair, count in followed.items()}))):
        engine._bigrams = made([language])
        assert [each.token_ids for each in generate(engine, requests)] == [each.token_ids for each in plain]
        counts = engine.statistics().drafting["bigrams"]
        assert counts.drafted
    assert counts.accepted


def test_the_table_holds_what_follows_most_in_any_language() -> None:
    seen = Counter({(1, 2): 90, (1, 3): 9, (1, 4): 1, (5, 6): 7})
    found = shares(seen)
    assert found == {1: {2: 0.9, 3: 0.09, 4: 0.01}}, "seven times is too few"
    arrays = table([found, {1: {4: 0.5, 2: 0.01}, 8: {9: 0.02}}])
    assert arrays["tokens"].tolist() == [1], "what follows token 8 is too rare"
    assert arrays["following"].tolist() == [[2, 4, 3, *[-1] * (MOST - 3)]]
    assert arrays["shares"][0, :3].tolist() == [[230, 3], [3, 128], [23, 0]]
