"""The GPU's model computes what `qwen2.py` computes. Without a GPU: in Triton's interpreter, and without graphs."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from triton import language as tl
from triton.runtime import interpreter

from build_engine.checkpoint import ModelShape
from build_engine.eight_bits import dequantise, quantise, scales_of
from nimble_coder.bench.step import in_eight_bits, random_weights
from nimble_coder.engine import linear
from nimble_coder.engine.batch import Batch, BatchBuilder
from nimble_coder.engine.cuda import kernels, matrix, model
from nimble_coder.engine.cuda.model import CudaQwen2
from nimble_coder.engine.model import Model
from nimble_coder.engine.qwen2 import Qwen2
from nimble_coder.engine.torch_kv_cache import TorchKVCache
from nimble_coder.engine.torch_logits import TorchLogits
from nimble_coder.engine.tree import TokenTree
from nimble_coder.engine.weights import in_sixteen_bits

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # Triton's interpreter
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE = ModelShape(500, 192, 320, 2, 6, 2, 64, 1e-6, 1e4, 512, True)
"""No size but the heads' is a multiple of what a kernel computes together."""
OTHERS = [
    replace(SHAPE, hidden_size=256, num_attention_heads=7, num_key_value_heads=1, tie_word_embeddings=False),
    replace(SHAPE, hidden_size=160, num_attention_heads=2, num_key_value_heads=1, head_dim=128),
]
"""Seven query heads to a KV head beside a head of its own, and heads of 128 dimensions."""
PROMPTS = [[random.Random(seed).randrange(400) for _ in range(length)] for seed, length in enumerate((5, 70, 24))]
LARGEST = 30


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes milliseconds for a program, however many outputs it has."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(matrix, "OUTPUTS", 32)


@pytest.fixture(autouse=True, scope="module")
def replaced_language() -> Iterator[None]:
    """The interpreter replaces Triton's language for a launch, and again for each function that a program calls, which
    takes about as long as all that they compute: here it is replaced from the first test to the last."""
    if DEVICE.type == "cuda":
        yield
        return
    scopes = [interpreter._patch_lang(each.fn) for each in (kernels.combine, tl.standard.sum)]  # `tl`, and its core
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", lambda _: interpreter._LangPatchScope())
        yield
    for scope in reversed(scopes):
        scope.restore()


def models(shape: ModelShape) -> tuple[Qwen2, CudaQwen2]:
    torch.manual_seed(2)
    weights = {name: tensor.float() * 6 for name, tensor in random_weights(shape, DEVICE).items()}
    plain_cache = TorchKVCache(shape, 4, 300, torch.float32, DEVICE)
    cache = TorchKVCache(shape, 4, 300, torch.float32, DEVICE, defer_moves=True)
    for each in (plain_cache, cache):  # memory that nobody has written may hold anything
        each.keys.fill_(torch.nan)
        each.values.fill_(torch.nan)
    return Qwen2(shape, dict(weights), plain_cache), CudaQwen2(shape, weights, cache, LARGEST, longest_path=7)


def prefill(prompts: list[list[int]]) -> Batch:
    builder = BatchBuilder()
    for slot, prompt in enumerate(prompts):
        builder.add_chunk(slot, 0, prompt, is_last=True)
    return builder.build(wants_logits=True)


def begun(plain: Qwen2, fast: CudaQwen2, prompts: list[list[int]]) -> list[int]:
    """Both models behind the prompts, which the reference alone has read; returns their lengths."""
    plain.run(prefill(prompts))
    assert isinstance(plain.cache, TorchKVCache)
    fast._cache.keys.copy_(plain.cache.keys)
    fast._cache.values.copy_(plain.cache.values)
    return [len(prompt) for prompt in prompts]


def tree_of(size: int, rng: random.Random) -> TokenTree:
    tree = TokenTree(rng.randrange(400))
    while len(tree) < size:
        tree.add(rng.randrange(len(tree)), rng.randrange(400))
    return tree


def trees(sizes: list[int], cached: list[int], seed: int, wants_logits: bool = True) -> Batch:
    rng, builder = random.Random(seed), BatchBuilder()
    for slot, size in enumerate(sizes):
        builder.add_tree(slot, cached[slot], tree_of(size, rng))
    return builder.build(wants_logits)


def same(plain: Model, fast: Model, batch: Batch) -> None:
    expected, found = plain.run(batch), fast.run(batch)
    assert found.choices == expected.choices
    assert expected.logits is not None
    assert found.logits is not None
    np.testing.assert_allclose(found.logits[:], expected.logits[:], atol=1e-3, rtol=1e-3)


STEPS = [[1], [1, 7], [16, 3, LARGEST], [1, 1, 1]]


@pytest.mark.parametrize(
    ("shape", "sizes"), [*((SHAPE, sizes) for sizes in STEPS), *((shape, [3, LARGEST]) for shape in OTHERS)], ids=str
)
def test_a_step_gives_what_the_reference_gives(shape: ModelShape, sizes: list[int]) -> None:
    plain, fast = models(shape)
    cached = begun(plain, fast, PROMPTS[: len(sizes)])
    for seed in range(1 + (DEVICE.type == "cuda")):  # the second time the graph that was recorded is replayed
        same(plain, fast, trees(sizes, cached, seed))
    for slot, size in enumerate(sizes):
        for mine, theirs in zip(
            fast._cache.read(1, slot, cached[slot] + size), plain.cache.read(1, slot, cached[slot] + size), strict=True
        ):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("shape", "prompts"), [(SHAPE, PROMPTS[1:2]), *((shape, PROMPTS[::2]) for shape in OTHERS)])
def test_prompts_give_what_the_reference_gives(shape: ModelShape, prompts: list[list[int]]) -> None:
    same(*models(shape), prefill(prompts))


def test_steps_note_nothing_for_gradients() -> None:
    for each in models(SHAPE):
        logits = each.run(prefill(PROMPTS[:1])).logits
        assert isinstance(logits, TorchLogits)
        assert logits.logits.is_inference()


def test_accepted_entries_move_before_the_next_step() -> None:
    plain, fast = models(SHAPE)
    cached = begun(plain, fast, PROMPTS[:2])
    for seed, paths in enumerate([[[3, 9, 10], [5]], [[2, 4, 6, 8], [11]]]):
        same(plain, fast, trees([12, 12], cached, seed))
        for cache in (plain.cache, fast._cache):
            for slot, path in enumerate(paths):
                cache.keep(slot, cached[slot], path)
        cached = [length + 1 + len(path) for length, path in zip(cached, paths, strict=True)]
    same(plain, fast, trees([1, 1], cached, seed=9))


def test_a_chunk_of_a_prompt_runs_beside_trees() -> None:
    plain, fast = models(SHAPE)
    cached = begun(plain, fast, PROMPTS[:2])
    rng, builder = random.Random(3), BatchBuilder()
    builder.add_tree(0, cached[0], tree_of(9, rng))
    builder.add_chunk(2, 0, PROMPTS[2][:14], is_last=False)
    builder.add_tree(1, cached[1], tree_of(1, rng))
    same(plain, fast, builder.build(wants_logits=True))
    builder = BatchBuilder()
    builder.add_chunk(2, 14, PROMPTS[2][14:], is_last=True)
    same(plain, fast, builder.build(wants_logits=True))


def test_entries_that_are_to_move_are_copied_to_their_new_place() -> None:
    """A prompt that shares what a running sequence has just accepted finds it in order."""
    cache = TorchKVCache(SHAPE, 2, 40, torch.float32, torch.device("cpu"), defer_moves=True)
    first, _ = cache.acquire([1, 2, 3])
    for tensor in (cache.keys, cache.values):
        tensor[:, first] = torch.arange(40.0)[:, None]
    cache.keep(first, 2, [4])
    cache.hold(first, [1, 2, 3, 4])
    second, shared = cache.acquire([1, 2, 3, 4, 5])
    assert (shared, second) == (4, 1)
    assert cache.keys[0, second, 0, :4, 0].tolist() == [0, 1, 2, 6]
    assert cache.take_moves() == []


def test_few_layouts_serve_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = models(replace(SHAPE, num_hidden_layers=1))
    monkeypatch.setattr(model, "MIXED_ROWS", 16)
    fast.run(prefill(PROMPTS[2:]))
    assert not fast._steps  # a long prompt runs without a graph
    fast.run(prefill(PROMPTS[:1]))
    for size in (1, 2, 3, 4, 9):
        fast.run(trees([size], [5], seed=size, wants_logits=False))
    assert sorted(fast._steps) == [1, 2, 4, 8, 16]


def test_a_chunk_gives_the_same_in_a_graph_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast = models(SHAPE)
    for most in (0, 512):
        monkeypatch.setattr(model, "MIXED_ROWS", most)
        same(plain, fast, prefill(PROMPTS[::2]))
    assert sorted(fast._steps) == [LARGEST]


@pytest.fixture
def rounds_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6's interpreter loses the carry where rounding to 8 bits leads to a power of two: 31.8 becomes 16."""

    def convert(given: Any, given_type: Any, wanted: Any, mode: Any) -> Any:
        if wanted.name != "fp8e4nv":
            return convert_float(given, given_type, wanted, mode)
        return torch.from_numpy(given.astype(np.float32)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    convert_float = interpreter._convert_float
    monkeypatch.setattr(interpreter, "_convert_float", convert)


@pytest.mark.usefixtures("rounds_to_nearest")
def test_inputs_and_weights_of_eight_bits_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row of inputs has its own scale, each output of a matrix too; the head keeps its bits."""
    products = count(1)

    def in_e4m3(rows: torch.Tensor) -> torch.Tensor:
        if next(products) % (4 * SHAPE.num_hidden_layers + 1) == 0:
            return rows  # the head's
        rounded, scales = quantise(rows)
        return dequantise(rounded, scales)

    monkeypatch.setattr(linear, "round_rows", in_e4m3)
    torch.manual_seed(2)
    eight = in_eight_bits({name: tensor.float() * 6 for name, tensor in random_weights(SHAPE, DEVICE).items()})
    matrices = {name: dequantise(eight[name], eight[scales_of(name)]) for name in eight if scales_of(name) in eight}
    weights = {name: tensor.float() for name, tensor in in_sixteen_bits(eight).items()} | matrices
    plain = Qwen2(SHAPE, weights, TorchKVCache(SHAPE, 4, 300, torch.float32, DEVICE), rounds=True)
    cache = TorchKVCache(SHAPE, 4, 300, torch.float32, DEVICE, defer_moves=True)
    fast = CudaQwen2(SHAPE, eight, cache, LARGEST, longest_path=7)
    expected, found = (each.run(prefill(PROMPTS[::2])).logits for each in (plain, fast))
    assert expected is not None
    assert found is not None
    error = np.linalg.norm(found[:] - expected[:]) / np.linalg.norm(expected[:])
    assert error < 0.02  # a number in the middle is rounded either way
