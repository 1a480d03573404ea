"""The algorithm by itself: the pool, the window, the tree of a step, and losslessness with made-up models."""

import hashlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from build_engine.lookahead import LookaheadConfig
from nimble_coder.engine.lookahead import Lookahead, NgramPool
from nimble_coder.engine.tree import TokenTree, verify

Model = Callable[[tuple[int, ...]], int]


def hashed(vocabulary: int) -> Model:
    """A deterministic model whose next token depends on every visible token and their order."""

    def model(visible: tuple[int, ...]) -> int:
        # Hashing the last few tokens only makes text that repeats itself, so that drafts get accepted.
        digest = hashlib.sha256(repr(visible[-3:]).encode()).digest()
        return digest[0] % vocabulary if sum(visible) % 7 else digest[1] % vocabulary

    return model


def outputs_of(model: Model, committed: Sequence[int], tree: TokenTree) -> list[int]:
    """The model's token behind every node, given exactly what the node may see."""
    return [
        model((*committed[:-1], *(tree.tokens[i] for i in range(len(tree)) if tree.visible[node] >> i & 1)))
        for node in range(len(tree))
    ]


def decode(model: Model, prompt: list[int], config: LookaheadConfig, count: int, seed: int) -> tuple[list[int], int]:
    """Generated tokens and the number of steps."""
    state, tokens, steps = Lookahead(config, prompt, seed), list(prompt), 0
    tokens.append(model(tuple(tokens)))
    state.commit(tokens[-1:])
    while len(tokens) < len(prompt) + count:
        tree = state.draft(tokens[-1])
        assert len(tree) <= config.tokens_per_step
        outputs = outputs_of(model, tokens, tree)
        accepted, path = verify(tree, outputs, state.longest_path)
        assert 1 <= len(accepted) <= config.ngram_size
        assert len(path) == len(accepted) - 1
        tokens += accepted
        state.update(tree, outputs, accepted)
        steps += 1
    return tokens[len(prompt) : len(prompt) + count], steps


def greedy(model: Model, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(model(tuple(tokens)))
    return tokens[len(prompt) :]


configs = st.one_of(
    st.just(LookaheadConfig(1, 1, 0)),
    st.builds(LookaheadConfig, st.integers(1, 9), st.integers(2, 8), st.integers(0, 8)),
)


@settings(max_examples=150, deadline=None)
@given(config=configs, prompt=st.lists(st.integers(0, 11), min_size=1, max_size=30), seed=st.integers(0, 2**63))
def test_output_is_greedy_for_every_legal_configuration_prompt_and_seed(
    config: LookaheadConfig, prompt: list[int], seed: int
) -> None:
    model = hashed(12)
    assert decode(model, prompt, config, 40, seed)[0] == greedy(model, prompt, 40)


def test_text_that_repeats_itself_takes_few_steps() -> None:
    cycle = [3, 1, 4, 1, 5, 9, 2, 6]

    def model(visible: tuple[int, ...]) -> int:
        return cycle[len(visible) % len(cycle)]

    _, steps = decode(model, [cycle[i % 8] for i in range(24)], LookaheadConfig(4, 5, 4), 80, seed=0)
    assert steps <= 30  # five tokens a step at best, one at worst


def test_the_same_seed_gives_the_same_drafts_and_another_one_the_same_output() -> None:
    model, prompt, config = hashed(12), list(range(10)), LookaheadConfig(5, 4, 3)
    assert decode(model, prompt, config, 60, seed=1) == decode(model, prompt, config, 60, seed=1)
    assert decode(model, prompt, config, 60, seed=1)[0] == decode(model, prompt, config, 60, seed=2)[0]


def test_plain_decoding_never_drafts() -> None:
    state = Lookahead(LookaheadConfig(1, 1, 0), [1, 2, 1, 2, 1], seed=0)
    assert state.longest_path == 0
    assert len(state.draft(1)) == 1


def settled(config: LookaheadConfig, guesses: int) -> TokenTree:
    """A step of a full window whose tokens all differ, with `guesses` n-grams in the pool behind the root."""
    prompt = [0]
    state = Lookahead(config, prompt, seed=0)
    fresh = iter(range(1000, 100000))
    state._prefix = [next(fresh) for _ in state._prefix]
    state._rows = [[next(fresh) for _ in range(config.window_size)] for _ in range(config.ngram_size - 1)]
    for _ in range(guesses):
        state._pool.insert(0, tuple(next(fresh) for _ in range(config.ngram_size - 1)))
    return state.draft(0)


@pytest.mark.parametrize("config", [(5, 3, 2), (4, 4, 2), (8, 8, 8), (15, 15, 15), (2, 2, 1), (1, 3, 2), (3, 2, 0)])
def test_a_full_step_has_d_plus_one_tokens(config: tuple[int, int, int]) -> None:
    lookahead = LookaheadConfig(*config)
    assert len(settled(lookahead, lookahead.verification_set_size)) == lookahead.tokens_per_step


@pytest.mark.parametrize(
    ("config", "offsets"),
    [
        # The worked examples of a full step: positions relative to the root of window cells and guesses.
        ((5, 3, 2), [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 1, 2, 1, 2]),
        ((4, 4, 2), [0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5, 1, 2, 3, 1, 2, 3]),
    ],
)
def test_positions_are_those_of_the_window_and_the_guesses(config: tuple[int, int, int], offsets: list[int]) -> None:
    tree = settled(LookaheadConfig(*config), guesses=2)
    assert sorted(tree.depths) == sorted(offsets)


@pytest.mark.parametrize("config", [(5, 3, 2), (4, 4, 2), (8, 8, 8)])
def test_a_node_sees_the_root_its_ancestors_and_itself_and_nothing_else(config: tuple[int, int, int]) -> None:
    tree = settled(LookaheadConfig(*config), guesses=config[2])
    for node in range(len(tree)):
        seen = [i for i in range(len(tree)) if tree.visible[node] >> i & 1]
        assert seen[0] == 0
        assert seen[-1] == node  # a parent always comes before its children
        assert [tree.depths[i] for i in seen] == list(range(tree.depths[node] + 1))
        for ancestor in seen:
            assert tree.visible[ancestor] & ~tree.visible[node] == 0


def test_the_window_fills_in_n_minus_two_steps() -> None:
    state, model, tokens = Lookahead(LookaheadConfig(4, 6, 3), list(range(8)), seed=0), hashed(50), list(range(8))
    rows = []
    for _ in range(6):
        rows.append(len(state._rows))
        tree = state.draft(tokens[-1])
        outputs = outputs_of(model, tokens, tree)
        accepted, _ = verify(tree, outputs, state.longest_path)
        tokens += accepted
        state.update(tree, outputs, accepted)
    assert rows == [1, 2, 3, 4, 5, 5]


def test_equal_beginnings_are_computed_once() -> None:
    tree = TokenTree(7)
    first, second = tree.add_path(0, [1, 2, 3]), tree.add_path(0, [1, 2, 4])
    assert len(tree) == 5
    assert tree.visible[first] & tree.visible[second] == 0b111


def test_verification_follows_the_longest_path_and_stops_at_the_limit() -> None:
    tree = TokenTree(0)
    tree.add_path(0, [5, 6, 7])
    tree.add_path(0, [5, 8])
    outputs = [5, 6, 7, 9, 1]
    assert verify(tree, outputs, longest_path=9) == ([5, 6, 7, 9], [1, 2, 3])
    assert verify(tree, outputs, longest_path=1) == ([5, 6], [1])
    assert verify(TokenTree(0), [3], longest_path=9) == ([3], [])


def text_pool(n: int, g: int, text: str) -> NgramPool:
    pool = NgramPool(n, g)
    pool.insert_text([ord(c) for c in text])
    return pool


def found(pool: NgramPool, key: str) -> list[str]:
    return ["".join(map(chr, ngram)) for ngram in reversed(pool.lookup(ord(key)))]


def test_the_pool_keeps_the_newest_ngrams_of_a_key() -> None:
    # The sentence and the expectations of TensorRT-LLM's lookaheadPoolManagerTest.cpp.
    pool = text_pool(4, 5, "hello world; hello world. live is life.")
    assert found(pool, "l") == ["lo ", "o w", "d. ", "ive", "ife"]
    pool.insert(ord("l"), (97, 98, 99))
    assert found(pool, "l") == ["o w", "d. ", "ive", "ife", "abc"]


def test_an_ngram_seen_again_becomes_the_newest() -> None:
    pool = NgramPool(3, 2)
    for ngram in [(1, 2), (3, 4), (1, 2), (5, 6)]:
        pool.insert(9, ngram)
    assert pool.lookup(9) == [(5, 6), (1, 2)]


def test_a_pool_without_capacity_stays_empty() -> None:
    assert found(text_pool(3, 0, "aaaa"), "a") == []


@given(st.lists(st.tuples(st.integers(0, 3), st.tuples(st.integers(0, 3), st.integers(0, 3)))), st.integers(1, 4))
def test_a_key_never_has_more_than_g_ngrams_nor_one_twice(
    insertions: list[tuple[int, tuple[int, int]]], capacity: int
) -> None:
    pool = NgramPool(3, capacity)
    for key, ngram in insertions:
        pool.insert(key, ngram)
        assert pool.lookup(key)[0] == ngram
    for key in range(4):
        assert len(pool.lookup(key)) == len(set(pool.lookup(key))) <= capacity
