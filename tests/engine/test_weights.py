"""The engine's file is mapped as it is, whichever of its versions it has."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engine.build import build
from build_engine.cache import Cache
from build_engine.checkpoint import Checkpoint
from build_engine.engine_config import WEIGHTS, EngineConfig
from build_engine.engines.torch import ENTRY, build_torch_engine, write
from build_engine.lookahead import LookaheadConfig
from build_engine.precision import Precision
from build_engine.profiles import CUDA, CUDA_PRECISIONS, find_profile
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import generate
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.engine.weights import in_rows, load_packed, load_weights
from nimble_coder.engine.weights_file import map_weights
from tests.conftest import MakeCheckpoint, silent

CPU = torch.device("cpu")
LOOKAHEAD = LookaheadConfig(4, 3, 4)


def built(precision: Precision, checkpoint: Path, cache: Path) -> Path:
    profile = replace(
        find_profile("demo"), precision=precision, lookahead=LOOKAHEAD, max_input_len=200, max_seq_len=256
    )
    return build(profile, checkpoint, Cache(cache), silent).engine


def tokens(engine_dir: Path) -> list[int]:
    engine = TorchEngine(engine_dir, LOOKAHEAD, TorchEngineOptions(threads=1))
    try:
        return generate(engine, [Request([5, 6, 7, 8], 40)])[0].token_ids
    finally:
        engine.shutdown()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_packed_weights_are_not_copied(make_checkpoint: MakeCheckpoint, tmp_path: Path, precision: Precision) -> None:
    engine_dir = built(precision, make_checkpoint(), tmp_path)
    kept, expected = map_weights(engine_dir / WEIGHTS), load_packed(engine_dir)
    for name, (kind, array) in expected.items():
        assert kept[name].format == kind
        assert kept[name].array.tobytes() == array.tobytes()
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    places = [line.split()[0].split("-") for line in mapped.splitlines() if line.endswith(WEIGHTS)]
    inside = [any(int(a, 16) <= t.array.ctypes.data < int(b, 16) for a, b in places) for t in kept.values()]
    assert all(inside)


def test_a_build_holds_one_tensor_of_the_engine_at_a_time(tmp_path: Path) -> None:
    alive = WeakSet[torch.Tensor]()

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for number in range(8):
            tensor = torch.full((3, 5), number, dtype=torch.bfloat16)
            alive.add(tensor)
            assert len(alive) <= 2  # this one, and the one that was written last
            yield f"layers.{number}", tensor
            del tensor

    write(tensors(), tmp_path / WEIGHTS, room=8 * ENTRY)
    kept = load_file(tmp_path / WEIGHTS)
    assert [int(kept[f"layers.{number}"].sum()) for number in range(8)] == [15 * number for number in range(8)]


def test_what_was_built_in_8_bits_for_gpus_is_served_in_16_where_nothing_multiplies_them(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    sizes = {}
    for precision in CUDA_PRECISIONS:
        profile = replace(
            find_profile("demo"), precision=precision, gpu=CUDA, lookahead=LOOKAHEAD, max_input_len=200, max_seq_len=256
        )
        (tmp_path / precision).mkdir()
        build_torch_engine(checkpoint, profile, tmp_path / precision)
        sizes[precision] = (tmp_path / precision / WEIGHTS).stat().st_size
    assert sizes["fp8"] < sizes["bf16"]
    exact, eight = (load_weights(tmp_path / precision, CPU) for precision in CUDA_PRECISIONS)
    assert exact.keys() == eight.keys()
    for name, tensor in exact.items():
        error = (eight[name].float() - tensor.float()).norm() / tensor.float().norm()
        is_matrix = tensor.ndim == 2 and name.startswith("layers.")
        assert 0 < error < 0.04 if is_matrix else error == 0, name
    assert len(tokens(tmp_path / "fp8")) == 40


def test_a_build_that_takes_long_says_how_far_it_is(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("build_engine.engines.torch.SECONDS_BETWEEN", -1.0)
    checkpoint, said = Checkpoint.open(make_checkpoint()), list[str]()
    profile = replace(find_profile("demo"), precision="int4", max_input_len=200, max_seq_len=256)
    build_torch_engine(checkpoint, profile, tmp_path, said.append)
    layers = checkpoint.shape.num_hidden_layers
    assert list(dict.fromkeys(said)) == [f"packing layer {layer + 1} of {layers}" for layer in range(layers)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_engine_of_the_version_before_serves_the_same_tokens(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, precision: Precision
) -> None:
    new = built(precision, make_checkpoint(), tmp_path)
    old = tmp_path / "old"
    old.mkdir()
    config = EngineConfig.read(new)
    replace(config, version="torch-1").write(old)
    save_file(in_rows(load_weights(new, CPU), config.shape, getattr(torch, config.dtype)), old / WEIGHTS)
    assert tokens(old) == tokens(new)
