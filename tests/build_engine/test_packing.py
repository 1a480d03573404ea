"""Packed weights are the given ones, to the precision of their format, on a grid of that format exactly."""

import pytest
import torch

from build_engine.packing import format_of, pack, round_rows, unpack
from build_engine.precision import BLOCK_BYTES

MOST = {"fp32": 0.0, "bf16": 0.002, "int8": 0.006, "int6": 0.025, "int4": 0.075}


@pytest.mark.parametrize(("kind", "most"), MOST.items())
@pytest.mark.parametrize("size", [(16, 64), (100, 150), (33, 31), (1, 1)])
def test_what_is_unpacked_is_near_what_was_packed(kind: str, most: float, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    weight = torch.randn(size)
    packed = pack(weight, kind)
    assert format_of(packed) == kind
    found = unpack(packed, *size).float()
    assert found.shape == weight.shape
    assert float((found - weight).norm() / weight.norm()) <= most


def test_a_grid_of_sixteen_steps_is_found_again() -> None:
    # What a checkpoint has that was made of a GGUF file in Q4_K.
    torch.manual_seed(2)
    scale, offset = torch.rand(64, 8, 1) / 8 + 0.01, torch.rand(64, 8, 1)
    weight = (scale * torch.randint(0, 16, (64, 8, 32)) - offset).view(64, 256)
    found = unpack(pack(weight, "int4"), 64, 256)
    assert float((found - weight).norm() / weight.norm()) < 0.005  # scales and offsets are bf16


@pytest.mark.parametrize("kind", BLOCK_BYTES)
def test_groups_without_an_extent_are_kept(kind: str) -> None:
    for value in (0.0, 1.0, -0.5):
        assert torch.allclose(unpack(pack(torch.full((16, 64), value), kind), 16, 64), torch.tensor(value), rtol=0.01)


def test_a_tensor_in_no_format_is_refused() -> None:
    assert format_of(torch.zeros(3, 4)) is None
    with pytest.raises(ValueError, match="in no format of weights"):
        format_of(torch.zeros(1, 2, 3, dtype=torch.uint8))


def test_inputs_are_rounded_group_by_group() -> None:
    rows = torch.tensor([[127.4] + [0.6] * 31 + [0.001] * 8])
    found = round_rows(rows)
    assert torch.allclose(found[0, 1:32], torch.tensor(127.4 / 127))
    assert torch.allclose(found[0, 32:], torch.tensor(0.001))
