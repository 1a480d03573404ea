"""Padded steps give what steps as they are give. On a CPU they run without graphs (docs/gpu-checklist.md)."""

import random

import pytest
import torch

from nimble_coder.bench.step import random_weights
from nimble_coder.engine.batch import Batch, BatchBuilder
from nimble_coder.engine.cuda_graphs import GraphedQwen2, power_of_two
from nimble_coder.engine.kv_cache import KVCache
from nimble_coder.engine.lookahead import TokenTree
from nimble_coder.engine.qwen2 import Qwen2
from tests.engine.test_native import SHAPE

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROMPTS = [[random.Random(seed).randrange(400) for _ in range(length)] for seed, length in enumerate((5, 40, 90))]


def models() -> tuple[Qwen2, GraphedQwen2]:
    torch.manual_seed(2)
    weights = {name: tensor.float() * 6 for name, tensor in random_weights(SHAPE, DEVICE).items()}
    caches = [KVCache(SHAPE, 4, 200 + 30, torch.float32, DEVICE) for _ in range(2)]
    for cache in caches:  # memory that nobody has written may hold anything
        cache.keys.fill_(torch.nan)
        cache.values.fill_(torch.nan)
    plain, below = (Qwen2(SHAPE, dict(weights), cache) for cache in caches)
    return plain, GraphedQwen2(below, tokens_per_step=30)


def prefill() -> Batch:
    builder = BatchBuilder()
    for slot, prompt in enumerate(PROMPTS):
        builder.add_chunk(slot, 0, prompt, is_last=True)
    return builder.build(wants_logits=False)


def trees(sizes: list[int], wants_logits: bool) -> Batch:
    rng, builder = random.Random(4), BatchBuilder()
    for slot, size in enumerate(sizes):
        tree = TokenTree(rng.randrange(400))
        while len(tree) < size:
            tree.add(rng.randrange(len(tree)), rng.randrange(400))
        builder.add_tree(slot, len(PROMPTS[slot]), tree)
    return builder.build(wants_logits)


@pytest.mark.parametrize("sizes", [[1], [30], [1, 7], [16, 3, 30], [1, 1, 1]])
def test_a_padded_step_gives_what_the_step_gives(sizes: list[int]) -> None:
    plain, graphed = models()
    for model in (plain, graphed):
        model.run(prefill())
    for _ in range(2):  # the second time a recorded graph is replayed, where there are graphs
        expected, found = (model.run(trees(sizes, wants_logits=True)) for model in (plain, graphed))
        assert found.choices == expected.choices
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-3, rtol=1e-3)
    for slot, prompt in enumerate(PROMPTS[: len(sizes)]):
        length = len(prompt) + sizes[slot]
        for mine, theirs in zip(
            graphed._model.cache.read(1, slot, length), plain.cache.read(1, slot, length), strict=True
        ):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_few_shapes_serve_many_steps() -> None:
    _, graphed = models()
    graphed.run(prefill())
    assert not graphed._steps  # prompts run without a graph
    for size in range(1, 31):
        graphed.run(trees([size, size // 2 + 1], wants_logits=False))
    assert sorted(shape.rows for shape in graphed._steps) == [1, 8, 16, 30]


def test_shapes_are_powers_of_two() -> None:
    assert [power_of_two(n) for n in (1, 2, 3, 5, 8, 9)] == [1, 2, 4, 8, 8, 16]
    assert power_of_two(3, 256) == 256
