"""Numbers of 4 bits are chosen by what the matrix multiplies."""

import torch

from build_engine.four_bits import Compensation, compensated, nearest
from build_engine.packing import pack, unpack


def correlated(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Inputs that mostly lie in a few directions, as a model's do, some of them far larger than others."""
    generator = torch.Generator().manual_seed(seed)
    same = torch.Generator().manual_seed(0)
    directions = torch.randn(columns // 8, columns, generator=same)
    sizes = torch.logspace(-1, 1, columns)[torch.randperm(columns, generator=same)]
    mixed = torch.randn(rows, columns // 8, generator=generator) @ directions
    return (mixed + torch.randn(rows, columns, generator=generator)) * sizes


def test_products_are_nearer_than_those_of_the_nearest_weights() -> None:
    torch.manual_seed(1)
    weight = torch.randn(48, 160)
    known, held_out = correlated(1000, 160, 1), correlated(200, 160, 2)
    padded = torch.nn.functional.pad(known, (0, 32))
    halves = [part.T @ part / len(part) for part in padded.split(128, -1)]
    products = held_out @ weight.T

    def error(packed: torch.Tensor) -> float:
        return float((held_out @ unpack(packed, 48, 160).T - products).norm())

    assert error(pack(weight, "int4", halves)) < 0.7 * error(pack(weight, "int4"))


def test_inputs_that_tell_nothing_of_each_other_are_rounded_to_the_nearest() -> None:
    torch.manual_seed(2)
    weight = torch.randn(32, 128)
    found = compensated(weight, [Compensation.of(torch.eye(64)), Compensation.of(3 * torch.eye(64))])
    for mine, expected in zip(found, nearest(weight), strict=True):
        assert torch.equal(mine, expected)


def test_an_input_that_was_never_there_is_kept() -> None:
    torch.manual_seed(3)
    weight, inputs = torch.randn(16, 64), torch.randn(500, 64)
    inputs[:, 5] = 0
    for known in (inputs, torch.zeros(1, 64)):
        packed = pack(weight, "int4", [known.T @ known / len(known)])
        assert float((unpack(packed, 16, 64)[:, 5] - weight[:, 5]).abs().max()) < 0.4
