"""KV entries of shared prefixes are reused: the same output, less work, what is short or old first to go."""

import random

import numpy as np
import pytest

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import Generation, generate
from nimble_coder.engine.kv_cache import KVCache
from tests.conftest import EMBEDDED
from tests.engine.conftest import LoadEngine


def words(seed: int, length: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(4000) for _ in range(length)]


def reused(generation: Generation) -> int:
    assert generation.metrics is not None
    return generation.metrics.kv_cache_reused_blocks


def test_a_repeated_prompt_reuses_all_whole_blocks_but_computes_its_last_token(load_engine: LoadEngine) -> None:
    engine, prompt = load_engine(), words(1, 129)
    first, second = (generate(engine, [Request(prompt, 20)])[0] for _ in range(2))
    assert (reused(first), reused(second)) == (0, 4)
    assert first.token_ids == second.token_ids
    assert engine.statistics().reused_prompt_tokens == 128
    assert engine.statistics().prompt_tokens == 258


def test_a_keystroke_reuses_the_last_prompt_and_the_answer(load_engine: LoadEngine) -> None:
    engine, prompt = load_engine(), words(2, 96)
    answer = generate(engine, [Request(prompt, 40)])[0].token_ids
    grown = generate(engine, [Request([*prompt, *answer[:33], 7], 20)])[0]
    assert reused(grown) == 4
    fresh = load_engine(max_batch_size=3)
    assert grown.token_ids == generate(fresh, [Request([*prompt, *answer[:33], 7], 20)])[0].token_ids


def test_a_running_prompt_is_shared(load_engine: LoadEngine) -> None:
    engine, prompt = load_engine(), words(3, 160)
    alone = generate(engine, [Request(prompt, 30)])[0].token_ids
    engine = load_engine(max_batch_size=3)
    long_lived = engine.enqueue(Request(prompt, 200, lookahead=PLAIN))
    while not engine.responses(timeout=5):
        pass
    other = generate(engine, [Request(prompt, 30)])[0]
    engine.cancel(long_lived)
    assert reused(other) == 4
    assert other.token_ids == alone


def test_the_slot_used_longest_ago_goes_first(load_engine: LoadEngine) -> None:
    engine = load_engine(max_batch_size=2)
    a, b, c = (words(seed, 65) for seed in (4, 5, 6))
    for prompt in (a, b, a, c):  # a is newer than b when c needs a slot
        generate(engine, [Request(prompt, 4)])
    assert reused(generate(engine, [Request(a, 4)])[0]) == 2
    assert reused(generate(engine, [Request(b, 4)])[0]) == 0


def test_a_long_prompt_outlives_short_ones_but_not_for_ever(load_engine: LoadEngine) -> None:
    engine, long = load_engine(max_batch_size=2), words(4, 200)
    generate(engine, [Request(long, 4)])
    for count, blocks in ((3, 6), (8, 0)):
        for seed in range(count):
            generate(engine, [Request(words(100 * count + seed, 40), 4)])
        assert reused(generate(engine, [Request(long, 4)])[0]) == blocks, count


def test_a_prompt_that_only_begins_alike_leaves_the_longer_one_its_slot(load_engine: LoadEngine) -> None:
    engine, long = load_engine(max_batch_size=2), words(7, 200)
    generate(engine, [Request(long, 4)])
    branch = generate(engine, [Request(long[:64] + words(8, 10), 4)])[0]
    assert reused(branch) == 2
    assert reused(generate(engine, [Request(long, 4)])[0]) == 6


@pytest.mark.parametrize(
    ("config", "eight_bits"), [((1, 1, 0), False), ((4, 3, 4), False), ((3, 8, 3), False), ((4, 3, 4), True)]
)
def test_output_is_the_same_with_and_without_reuse_under_concurrency(
    load_engine: LoadEngine, config: tuple[int, int, int], eight_bits: bool
) -> None:
    rng, stem = random.Random(9), words(9, 120)
    prompts = [stem[: rng.randrange(20, 120)] + words(seed, rng.randrange(1, 30)) for seed in range(20)]
    requests = [Request(p, 24, lookahead=LookaheadConfig(*config)) for p in prompts * 2]
    kind = {"precision": "bf16", "int8_kv_cache": eight_bits}  # in which it is served, and faster than in fp32
    with_reuse = load_engine(EMBEDDED, max_batch_size=4, **kind)
    found = [g.token_ids for g in generate(with_reuse, requests)]
    without = load_engine(EMBEDDED, max_batch_size=5, reuse_kv_cache=False, **kind)
    assert found == [g.token_ids for g in generate(without, requests)]
    assert with_reuse.statistics().reused_prompt_tokens > 1000
    assert without.statistics().reused_prompt_tokens == 0


def test_scales_go_where_their_entries_go() -> None:
    """Of accepted drafts, and of a prefix that another slot shares."""
    keys, values = (np.arange(2 * 2 * 2 * 8 * 64, dtype=np.int8).reshape(2, 2, 2, 8, 64) for _ in range(2))
    scales = tuple(np.arange(2 * 2 * 2 * 8, dtype=np.float32).reshape(2, 2, 2, 8) + which for which in (0, 100))
    cache, before = KVCache(keys, values, scales=scales), [each.copy() for each in (keys, values, *scales)]
    first, _ = cache.acquire([1, 2, 3, 4])
    cache.keep(first, 4, [2, 3])
    cache.hold(first, [1, 2, 3, 4])
    second, shared = cache.acquire([1, 2, 3, 9])
    assert (shared, first != second) == (3, True)
    for now, then in zip((keys, values, *scales), before, strict=True):
        assert np.array_equal(now[:, first, :, 5:7], then[:, first, :, 6:8])
        assert np.array_equal(now[:, second, :, :3], then[:, first, :, :3])


def test_a_cancelled_request_leaves_nothing_wrong_behind(load_engine: LoadEngine) -> None:
    engine, prompt = load_engine(max_batch_size=1), words(10, 200)
    for _ in range(6):
        engine.cancel(engine.enqueue(Request(prompt, 100)))
        cancelled = engine.enqueue(Request(prompt, 100))
        engine.responses(timeout=0.02)
        engine.cancel(cancelled)
    fresh = load_engine(max_batch_size=2)
    again, alone = (generate(e, [Request([*prompt, 5], 30)])[0].token_ids for e in (engine, fresh))
    assert again == alone
