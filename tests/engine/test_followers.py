"""What follows a token at large: the table that ships, in which language a text is, and that no output hangs on it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.contract.request import Request, Sampling
from nimble_coder.engine.followers import MARKS, MOST, MOST_OF_TWO, TRUST, Followers, Guesses, followers, pair
from nimble_coder.engine.generate import generate
from nimble_coder.engine.suffix import LEAST, SuffixDrafter
from nimble_coder.text.added_tokens import added_tokens
from tests.conftest import EMBEDDED
from tests.engine.conftest import LoadEngine
from training.followers import BETWEEN, FEWEST_OF_TWO, counted, shares, table, table_of_two

CONTROL = {"<|fim_prefix|>": MARKS.prefix, "<|fim_suffix|>": MARKS.suffix, "<|fim_middle|>": MARKS.middle}


def made(languages: list[dict[int, dict[int, float]]], texts: Sequence[Sequence[int]] = ((0, 0, 0),)) -> Followers:
    """Tables of each language's shares by token, and of what follows two in texts."""
    return Followers.of({**table(languages), **table_of_two([np.array(text, np.int64) for text in texts])})


def test_the_table_is_that_of_qwen_s_tokenizer_and_of_no_other() -> None:
    found = Followers.among(CONTROL)
    assert found is followers()
    assert Followers.among(added_tokens(EMBEDDED)) is None
    assert Followers.among({}) is None
    assert found.following.shape == found.shares.shape[:2] == (found.rows.max() + 1, MOST)
    assert found.following.max() < MARKS.prefix
    assert ((found.shares > 0).any(axis=2) == (found.following >= 0)).all()
    assert found.shares.sum(axis=1).max() <= 1.0001 + MOST / 510  # each is rounded to 1/255
    assert found.rows[0] >= 0
    assert found.row(-1) == found.row(10**9) == -1
    assert found.following_two.shape == found.shares_of_two.shape == (len(found.pairs), MOST_OF_TWO)
    assert (np.diff(found.pairs) > 0).all()
    assert found.following_two.max() < MARKS.prefix
    assert ((found.shares_of_two > 0) == (found.following_two >= 0)).all()
    assert found.shares_of_two.sum(axis=1).max() <= 1.0
    assert found.row_of_two(-1, 5) == found.row_of_two(2**17, 2**17) == found.row_of_two(10**9, 10**9) == -1


def test_a_pair_is_found_by_its_tokens() -> None:
    found = followers()
    for row in (0, 1, len(found.pairs) // 2, len(found.pairs) - 1):
        number = int(found.pairs[row])
        before, token = number >> 18, number & (2**18 - 1)
        assert pair(before, token) == number
        assert found.row_of_two(before, token) == row
        guessed = Guesses(found, []).behind(before, token)
        best = int(found.following_two[row, 0])
        assert guessed[best] >= TRUST * found.shares_of_two[row, 0] * 0.999
        assert sum(guessed.values()) <= 1.02


def test_a_text_tells_its_language() -> None:
    found = made([{1: {2: 0.9}, 2: {1: 0.9}, 5: {6: 0.8}}, {3: {4: 0.9}, 4: {3: 0.9}, 5: {7: 0.8}}])
    guesses = Guesses(found, [1, 2] * 10)
    assert guesses.behind(-1, 5) == {6: pytest.approx(0.8, abs=0.01), 7: pytest.approx(0.0, abs=0.01)}
    guesses.extend([3, 4] * 20)
    assert guesses.behind(-1, 5) == {6: pytest.approx(0.0, abs=0.01), 7: pytest.approx(0.8, abs=0.01)}
    assert guesses.behind(-1, 9) == guesses.behind(-1, -4) == guesses.behind(9, -1) == {}
    even = Guesses(found, []).behind(-1, 5)
    assert even == {6: pytest.approx(0.4, abs=0.01), 7: pytest.approx(0.4, abs=0.01)}


def test_they_are_drafted_where_the_text_says_nothing() -> None:
    found = made([{1: {2: 0.9}, 2: {3: 0.6, 4: 0.3}, 3: {1: 0.3}}])
    assert SuffixDrafter([8, 1], most=16).draft(1).tokens == [1]
    tree = SuffixDrafter([8, 1], most=3, followers=found).draft(1)
    assert (tree.tokens, tree.depths, tree.source) == ([1, 2, 3, 4], [0, 1, 2, 2], "followers")
    assert tree.likelihoods == pytest.approx([1.0, 0.9, 0.54, 0.27], abs=0.01)
    assert SuffixDrafter([8, 1], most=0, followers=found).draft(1).tokens == [1]


def test_two_tokens_tell_more_than_the_last_one() -> None:
    found = made([{1: {2: 0.5, 3: 0.5}}], [[8, 1, 3, 9, 1, 2] * 40])
    assert Guesses(found, []).behind(7, 1) == pytest.approx({2: 0.5, 3: 0.5}, abs=0.01)
    told = Guesses(found, []).behind(8, 1)
    assert told == pytest.approx({2: (1 - TRUST) * 0.5, 3: (1 - TRUST) * 0.5 + TRUST * 40 / 42}, abs=0.01)
    tree = SuffixDrafter([8, 1], most=1, followers=found).draft(1)
    assert tree.tokens == [1, 3]
    drafter = SuffixDrafter([8], most=1, followers=found)
    drafter.commit([9, 1])
    assert drafter.draft(1).tokens == [1, 2]
    deeper = SuffixDrafter(
        [7, 8], most=3, followers=made([{8: {1: 0.9}, 1: {2: 0.5, 3: 0.5}}], [[8, 1, 3, 9, 1, 2] * 40])
    )
    assert deeper.draft(8).tokens[:3] == [8, 1, 3], "the draft before it is one of the two"


def test_what_the_text_says_goes_first_and_leaves_the_rest_to_them() -> None:
    found = made([{7: {1: 0.5, 9: 0.5}}])
    alone = SuffixDrafter([7, 1, 2, 7], most=16).draft(7)
    both = SuffixDrafter([7, 1, 2, 7], most=16, followers=found).draft(7)
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
    followed = Counter(two for each in plain for two in zip(each.token_ids, each.token_ids[1:], strict=False))
    wrong = {token: {(token + 1) % 4096: 0.9} for token in range(4096)}
    for language in (wrong, shares(Counter({two: 8 * count for two, count in followed.items()}))):
        engine._followers = made([language])
        assert [each.token_ids for each in generate(engine, requests)] == [each.token_ids for each in plain]
        counts = engine.statistics().drafting["followers"]
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


def test_the_tables_hold_what_two_tokens_tell_beyond_one() -> None:
    often = [5, 6, 7, BETWEEN] * 30 + [4, 6, 8, BETWEEN] * 20  # 6 alone says 7 or 8
    once = [1, 2, 3, BETWEEN] * (FEWEST_OF_TWO - 1)
    nothing_more = [9, 10, 11, BETWEEN] * 50  # as 10 alone says
    arrays = table_of_two([np.array(often + once), np.array(nothing_more)])
    assert [*zip(arrays["first"], arrays["second"], strict=True)] == [(4, 6), (5, 6)]
    assert arrays["following_two"].tolist() == [[8, *[-1] * (MOST_OF_TWO - 1)], [7, *[-1] * (MOST_OF_TWO - 1)]]
    assert arrays["shares_of_two"][:, 0].tolist() == [round(255 * 20 / 22), round(255 * 30 / 32)]
    many = [token for follower in range(9) for token in [5, 6, 20 + follower, BETWEEN] * (9 - follower)]
    best = table_of_two([np.array([*many, *[4, 6, 8, BETWEEN] * 90])])["following_two"]
    assert best[1].tolist() == [20, 21, 22, 23][:MOST_OF_TWO]


def test_nothing_follows_from_one_file_to_the_next() -> None:
    assert counted(np.array([1, 2, BETWEEN, 3, 4, BETWEEN])) == {(1, 2): 1, (3, 4): 1}
