"""The compiled step computes what PyTorch's does, and computes a row alike whatever stands beside it."""

import ctypes
import random
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from build_engine.checkpoint import ModelShape
from build_engine.engines.torch import stored
from build_engine.precision import FINE, INT8, PRECISIONS, Precision
from nimble_coder.bench.step import random_weights
from nimble_coder.engine.batch import Batch, BatchBuilder, Segment
from nimble_coder.engine.compiled import SOURCE, find_step
from nimble_coder.engine.likely import Floats
from nimble_coder.engine.model import Model, Outcome, seconds_of
from nimble_coder.engine.native import CompiledStep, Memory, NativeQwen2, Shape, Step, Tensor, takes
from nimble_coder.engine.qwen2 import Qwen2
from nimble_coder.engine.torch_kv_cache import TorchKVCache
from nimble_coder.engine.tree import TokenTree
from nimble_coder.engine.weights import Weights, are_quantised, in_rows, packed

SHAPE = ModelShape(500, 192, 320, 2, 6, 2, 64, 1e-6, 1e4, 512, True)
"""No size is a multiple of what the compiled step computes together."""
ODD = replace(SHAPE, vocab_size=333, hidden_size=129, intermediate_size=96, num_key_value_heads=3, head_dim=128)
UNTIED = replace(SHAPE, tie_word_embeddings=False)
SMALL = replace(SHAPE, head_dim=16)
"""Heads that fill no vector, as in the tests' own checkpoints."""
CPU = torch.device("cpu")
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.03, "int4": 0.03}
KINDS = tuple(TOLERANCES)
CACHES: list[tuple[Precision, str | None]] = [("fp32", None), ("bf16", None), ("fp32", INT8)]
"""Precisions, and dtypes of keys and values where those are not the precision's own."""
Rows = torch.Tensor
Segments = list[tuple[Segment, torch.Tensor | None]]


LIBRARIES = find_step()
"""Those that this machine can run."""


def test_the_step_was_compiled_when_the_package_was_installed() -> None:
    assert LIBRARIES, "no step was compiled: install g++, and the package again"


def weights_of(shape: ModelShape, kind: Precision) -> Weights:
    """As an engine's file holds them."""
    torch.manual_seed(1)
    plain = {name: tensor.float() * 6 + (tensor.ndim == 1) for name, tensor in random_weights(shape, CPU).items()}
    return {name: stored(name, tensor, PRECISIONS[kind]) for name, tensor in plain.items()}


def native(
    library: Path,
    shape: ModelShape,
    kind: Precision,
    threads: int = 1,
    kept: str | None = None,
    weights: Weights | None = None,
) -> NativeQwen2:
    """With keys and values in the dtype `kept`, or in that of the precision."""
    cache = CompiledStep(library, threads).make_cache(shape, 2, 320, kept or PRECISIONS[kind].dtype)
    return NativeQwen2(library, shape, packed(weights or weights_of(shape, kind)), cache, threads)


class EightBits(Qwen2):
    """Rounds what the step rounds where keys and values have 8 bits."""

    def __init__(self, shape: ModelShape, weights: Weights, cache: TorchKVCache) -> None:
        heads, kv, half = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim // 2
        self._sizes, self._fine = [], []
        for layer in (f"layers.{index}." for index in range(shape.num_hidden_layers)):
            matrix = weights[layer + "qkv_weight"] * weights[layer + "attention_norm"]
            squares = (weights[layer + "qkv_bias"] ** 2 + (matrix**2).sum(-1)).view(-1, 2, half).sum(1)
            keys, queries = squares[heads : heads + kv], squares[:heads].view(kv, -1, half).sum(1)
            self._sizes.append(keys.sqrt().repeat(1, 2))
            most = (keys * queries).topk(FINE // 2).indices
            self._fine.append(torch.zeros(kv, half).scatter(1, most, 1).bool().repeat(1, 2))
        super().__init__(shape, weights, cache)

    def _attend(self, segments: Segments, layer: int, queries: Rows, keys: Rows, values: Rows) -> Rows:
        sizes = self._sizes[layer]
        return super()._attend(
            segments, layer, queries, rounded(keys / sizes, self._fine[layer]) * sizes, rounded(values)
        )


def rounded(x: Rows, fine: Rows | None = None) -> Rows:
    """To a 127th of each head's largest; a 128th of that where it is `fine`."""
    step = x.abs().amax(-1, keepdim=True) / 127
    steps = step if fine is None else torch.where(fine, step / 128, step)
    return (x / steps).round() * steps


def logits(model: Model, slot: int, cached: int, tokens: list[int]) -> Floats:
    """`[vocab_size]` behind the last of a chunk."""
    builder = BatchBuilder()
    builder.add_chunk(slot, cached, tokens, is_last=True)
    outcome = model.run(builder.build(wants_logits=True))
    assert outcome.logits is not None
    found: Floats = outcome.logits[:][0]
    assert outcome.choices == [int(found.argmax())]
    return found


PROMPT = [random.Random(3).randrange(300) for _ in range(90)]
FROM = 50
"""The token behind which the prompt is computed in chunks."""
LONG = [random.Random(4).randrange(300) for _ in range(290)]
"""Of more entries than attention takes at once, in pairs or not."""


def test_only_models_whose_numbers_are_rounded_in_whole_groups_are_taken() -> None:
    assert takes(ODD, "float32") and not takes(replace(ODD, intermediate_size=97), "float32")


@pytest.mark.parametrize(
    ("shape", "kind"),
    [*product((SHAPE, ODD, UNTIED), KINDS), (SMALL, "fp32"), (SMALL, "bf16")],
    ids=lambda value: value if isinstance(value, str) else f"{value.num_key_value_heads} of {value.head_dim}",
)
def test_logits_are_those_of_pytorch_on_every_instruction_set(shape: ModelShape, kind: Precision) -> None:
    cache = TorchKVCache(shape, 2, 256, torch.float32, CPU)
    weights = weights_of(shape, kind)
    reference = Qwen2(shape, in_rows(weights, shape, torch.float32), cache, rounds=are_quantised(weights))
    expected = logits(reference, 1, 0, PROMPT)
    for library in LIBRARIES:
        found = logits(native(library, shape, kind), 1, 0, PROMPT)
        assert abs(found - expected).max() <= TOLERANCES[kind] * abs(expected).max(), library.name


@pytest.mark.parametrize("kind", ["int8", "int4"])  # whose head has 6 bits
def test_the_largest_products_of_integers_fit(kind: Precision) -> None:
    weights = weights_of(SHAPE, "fp32")
    for name, tensor in in_rows(weights, SHAPE, torch.float32).items():
        if tensor.ndim == 2:
            largest = torch.ones_like(tensor)
            if name == "embedding":
                largest[1::2] = -1
            else:
                largest[:, 31::32] = -1  # so that the others are as far from it as 4 bits can tell
            weights[name] = stored(name, largest, PRECISIONS[kind])
    cache = TorchKVCache(SHAPE, 2, 256, torch.float32, CPU)
    reference = Qwen2(SHAPE, in_rows(weights, SHAPE, torch.float32), cache, rounds=True)
    for token in (0, 1):
        expected = logits(reference, token, 0, [token])
        for library in LIBRARIES:
            found = logits(native(library, SHAPE, kind, weights=weights), token, 0, [token])
            assert abs(found - expected).max() <= 0.001 * abs(expected).max(), library.name


@pytest.mark.parametrize("shape", [SHAPE, ODD], ids=["pairs of heads", "lone heads"])
def test_logits_are_those_of_pytorch_with_keys_and_values_in_8_bits(shape: ModelShape) -> None:
    weights = weights_of(shape, "fp32")
    cache = TorchKVCache(shape, 2, 256, torch.float32, CPU)
    expected = logits(EightBits(shape, in_rows(weights, shape, torch.float32), cache), 1, 0, PROMPT)
    for library in LIBRARIES:
        found = logits(native(library, shape, "fp32", kept=INT8), 1, 0, PROMPT)
        assert abs(found - expected).max() <= 0.003 * abs(expected).max(), library.name


def test_a_large_bias_of_one_dimension_of_the_keys_does_not_cost_the_others_their_8_bits() -> None:
    weights = weights_of(SHAPE, "fp32")
    q, dim = SHAPE.num_attention_heads * SHAPE.head_dim, SHAPE.head_dim
    for layer in range(SHAPE.num_hidden_layers):
        weights[f"layers.{layer}.qkv_bias"][[q + 5, q + dim + dim // 2 + 7]] = 200
    cache = TorchKVCache(SHAPE, 2, 256, torch.float32, CPU)
    expected = logits(Qwen2(SHAPE, in_rows(weights, SHAPE, torch.float32), cache), 1, 0, PROMPT)
    for library in LIBRARIES:
        found = logits(native(library, SHAPE, "fp32", kept=INT8, weights=weights), 1, 0, PROMPT)
        assert abs(found - expected).max() <= 0.03 * abs(expected).max(), library.name


@pytest.mark.parametrize(("kind", "kept"), [*((kind, None) for kind in KINDS), ("bf16", INT8)])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_rows_logits_do_not_depend_on_the_rows_beside_it(kind: Precision, kept: str | None, threads: int) -> None:
    for library in LIBRARIES:
        model = native(library, SHAPE, kind, threads, kept)
        whole = logits(model, 0, 0, PROMPT)
        logits(model, 1, 0, PROMPT[:FROM])
        for size in (1, 2, 5, 7, 16, 33):
            for start in range(FROM, len(PROMPT), size):
                chunk = PROMPT[start : start + size]
                last = logits(model, 1, start, chunk)
            assert np.array_equal(last, whole), f"{library.name}, chunks of {size}"


@pytest.mark.parametrize(("kind", "kept"), CACHES)
@pytest.mark.parametrize("shape", [SHAPE, ODD], ids=["pairs of heads", "lone heads"])
def test_a_rows_logits_do_not_depend_on_where_chunks_of_a_long_prompt_end(
    shape: ModelShape, kind: Precision, kept: str | None
) -> None:
    """Chunks of odd and even lengths, of fewer and of more rows than share a load, and across what is taken at once."""
    for library in LIBRARIES:
        model = native(library, shape, kind, kept=kept)
        whole = [logits(model, 0, 0, LONG[:end]) for end in (257, 258, len(LONG))]
        for size in (1, 3, 8, 20, 127, 129):
            for start in range(0, 256, size):
                logits(model, 1, start, LONG[start : min(start + size, 256)])
            found = [logits(model, 1, 256, LONG[256:257]), logits(model, 1, 257, LONG[257:258])]
            found.append(logits(model, 1, 258, LONG[258:]))
            assert all(map(np.array_equal, found, whole)), f"{library.name}, chunks of {size}"


@pytest.mark.parametrize(("kind", "kept"), CACHES)
@pytest.mark.parametrize("cached", [1, 2, 122, 125, 127, 128, 253, 254])
def test_a_nodes_logits_do_not_depend_on_where_in_the_tree_its_path_lies(
    kind: Precision, kept: str | None, cached: int
) -> None:
    """However many entries all rows see, odd or even, and where a path goes on beyond what attention takes at once."""
    rng = random.Random(cached)
    for library in LIBRARIES:
        model = native(library, SHAPE, kind, kept=kept)
        tree = TokenTree(LONG[cached])
        paths = [[rng.randrange(300) for _ in range(length)] for length in (6, 5, 4, 1, 9, 6, 3)]
        ends = [tree.add_path(0, path) for path in paths]
        logits(model, 0, 0, LONG[:cached])
        builder = BatchBuilder()
        builder.add_tree(0, cached, tree)
        drafted = model.run(builder.build(wants_logits=True)).logits
        assert drafted is not None
        for path, end in zip(paths, ends, strict=True):
            tokens = LONG[: cached + 1] + path
            logits(model, 1, 0, tokens[:-1])
            assert np.array_equal(drafted[:][end], logits(model, 1, len(tokens) - 1, tokens[-1:])), library.name


@pytest.mark.parametrize(("kind", "kept"), [*((kind, None) for kind in KINDS), ("bf16", INT8)])
def test_a_nodes_choice_is_that_of_its_path_alone(kind: Precision, kept: str | None) -> None:
    rng = random.Random(5)
    for library in LIBRARIES:
        model = native(library, SHAPE, kind, kept=kept)
        tree = TokenTree(PROMPT[-1])
        paths = [[rng.randrange(300) for _ in range(7)] for _ in range(12)]
        ends = [tree.add_path(0, path) for path in paths]
        logits(model, 0, 0, PROMPT[:-1])
        builder = BatchBuilder()
        builder.add_tree(0, len(PROMPT) - 1, tree)
        builder.add_chunk(1, 0, PROMPT[:20], is_last=True)
        outcome = model.run(builder.build(wants_logits=True))
        assert outcome.logits is not None
        assert len(tree) > 64
        for path, end in zip(paths, ends, strict=True):
            alone = logits(model, 1, 0, PROMPT + path)
            assert np.array_equal(outcome.logits[:][end], alone)
            assert outcome.choices[end] == int(alone.argmax())


def test_a_deep_models_step_is_timed_by_few_of_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes by what is computed: a layer takes 1, and each row of the head 5."""
    model = native(LIBRARIES[0], replace(SHAPE, num_hidden_layers=40), "int8")
    builder = BatchBuilder()
    builder.add_chunk(0, 0, PROMPT[:16], is_last=True)
    batch, clock, run = builder.build(wants_logits=False), [0.0], model._run

    def timed(given: Batch, layers: int) -> Outcome:
        clock[0] += layers + 5 * len(given.wanted)
        return run(given, layers)

    monkeypatch.setattr(model, "_run", timed)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    whole = seconds_of(lambda: model.run(batch))
    before = clock[0]
    assert model.seconds(batch) == whole
    assert clock[0] - before < whole / 2


def test_the_first_layers_alone_are_computed_where_few_are_asked_for() -> None:
    deep, shallow = replace(SHAPE, num_hidden_layers=5), replace(SHAPE, num_hidden_layers=3)
    weights = weights_of(deep, "int8")
    builder = BatchBuilder()
    builder.add_chunk(0, 0, PROMPT[:16], is_last=True)
    batch = builder.build(wants_logits=True)
    few = native(LIBRARIES[0], deep, "int8", weights=weights)._run(batch, 3).logits
    own = {name: tensor for name, tensor in weights.items() if not name.startswith(("layers.3.", "layers.4."))}
    all_of_them = native(LIBRARIES[0], shallow, "int8", weights=own).run(batch).logits
    assert few is not None
    assert all_of_them is not None
    assert np.array_equal(few[:], all_of_them[:])


def test_the_structures_are_as_large_as_the_compilers(tmp_path: Path) -> None:
    probe = tmp_path / "sizes.cpp"
    sizes = {each.__name__: ctypes.sizeof(each) for each in (Shape, Memory, Step, Tensor)}
    held = "".join(f"static_assert(sizeof({name}) == {size});\n" for name, size in sizes.items())
    probe.write_text(f'#include "{SOURCE}"\n{held}')
    subprocess.run(["g++", "-std=c++20", "-fsyntax-only", probe], check=True)


REFUSED = """
import os, resource, sys
from pathlib import Path
from tests.engine.test_native import SHAPE, native
native(Path(sys.argv[1]), SHAPE, "fp32", 2)
os.setuid(os.getuid() or 65534)  # root has no such limit
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    native(Path(sys.argv[1]), SHAPE, "fp32", 3)
except RuntimeError as error:
    print(error)
"""


def test_threads_that_the_kernel_refuses_are_an_error_that_names_the_limit() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED, LIBRARIES[0]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:47]) == (0, "the kernel refuses the 3 threads of the step: r"), done.stderr
