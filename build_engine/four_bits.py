"""Weights of 4 bits: the grid of each group, and the numbers on it that change a matrix's products the least.

A weight is scale * q - offset, q from 0 to 15; groups of 32 inputs of an output share scale and offset.
"""

from dataclasses import dataclass

import torch

GROUP = 32
LEVELS = 15
"""The largest q."""
SPANS = (10, 11, 12, 13, 14, 14.5, 15, 15.5, 16)
"""How many steps a group's range is tried to have: fewer where its numbers lie on a coarser grid, as those of GGUF's
Q4_K do, more where it pays to clip the outermost."""
PIECE = 1 << 15
"""Groups whose scales are sought at once: they stay in a processor's cache."""
DAMPING, FLOOR = 0.1, 0.001
"""Added to each input's mean square: this share of its own, as if the texts that it was measured on told no more, and
this of all inputs' mean, for inputs that those texts never had."""

Moments = list[torch.Tensor]
"""What a matrix multiplies: means of the products of its inputs with each other, `[span, span]` in fp32 for each of the
spans that its inputs are cut into. The products of inputs of two spans are taken for 0."""


@dataclass(frozen=True)
class Compensation:
    """How the inputs that are rounded later make up for the errors of those before, in one span (`Moments`)."""

    importance: torch.Tensor
    """`[span]`: by how much an input's error counts."""
    shares: torch.Tensor
    """`[span, span]`, upper triangular: how much of input i's error is taken off the weight of input j."""

    @classmethod
    def of(cls, moment: torch.Tensor) -> "Compensation":
        """From the moment of a span.

        With H the moment and H^-1 = U'U, U upper triangular, the best that all later weights can do for an error e of
        input i is to change by -e U[i, j] / U[i, i] (Frantar et al. 2022, "GPTQ", arXiv 2210.17323, section 3.3).
        """
        importance = moment.diagonal()
        damped = moment + torch.diag(DAMPING * importance + FLOOR * importance.mean().clamp(min=1e-20))
        backwards = torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1)  # H = R R', R upper triangular: U is R^-1
        inverse = torch.linalg.solve_triangular(backwards, torch.eye(len(moment)), upper=True)
        return cls(damped.diagonal() / damped.diagonal().mean(), inverse / inverse.diagonal()[:, None])


Rounded = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Scales and offsets `[outputs, groups]` in bf16, and q `[outputs, inputs]` as uint8."""


def nearest(weight: torch.Tensor) -> Rounded:
    """A matrix `[outputs, inputs]` in fp32 rounded to what is near it itself."""
    groups, alike = weight.reshape(-1, GROUP), torch.ones(GROUP)
    pieces = []
    for piece in groups.split(PIECE):
        scale, offset = fit(piece, alike)
        pieces.append((scale, offset, on_grid(piece, scale[:, None], offset[:, None])))
    scale, offset, q = (torch.cat(each) for each in zip(*pieces, strict=True))
    return scale.view(len(weight), -1), offset.view(len(weight), -1), q.view(weight.shape)


def compensated(weight: torch.Tensor, spans: list[Compensation]) -> Rounded:
    """A matrix `[outputs, inputs]` in fp32 rounded so that its products are near, input by input, as in GPTQ."""
    parts = weight.split([len(span.importance) for span in spans], -1)
    rounded = [_compensated(part.T.contiguous(), span) for part, span in zip(parts, spans, strict=True)]
    scale, offset, q = (torch.cat(each).T for each in zip(*rounded, strict=True))
    return scale, offset, q


def _compensated(weight: torch.Tensor, span: Compensation) -> Rounded:
    """Of one span `[inputs, outputs]`, which is used up; scales, offsets and q the other way round too."""
    scales, offsets, q = [], [], torch.empty(weight.shape, dtype=torch.uint8)
    for start in range(0, len(weight), GROUP):
        end = start + GROUP
        group, shares = weight[start:end], span.shares[start:end]
        scale, offset = fit(group.T.contiguous(), span.importance[start:end])
        for i in range(GROUP):
            q[start + i] = on_grid(group[i], scale, offset)
            group[i] -= q[start + i] * scale.float() - offset.float()  # the error takes the weight's place
            group[i + 1 :].addr_(shares[i, start + i + 1 : end], group[i], alpha=-1)
        weight[end:].addmm_(shares[:, end:].T, group, alpha=-1)
        scales.append(scale)
        offsets.append(offset)
    return torch.stack(scales), torch.stack(offsets), q


def fit(groups: torch.Tensor, importance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and offsets `[groups]` in bf16 of groups `[groups, 32]`, near the least squares that there are."""
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    above = groups - low
    extent, total, count = (high - low).clamp(min=1e-20), above @ importance, importance.sum()
    best_scale, best_base = torch.zeros_like(total), total / count
    best_gain = torch.zeros_like(total)
    for span in SPANS:
        # Clipping takes from both ends alike.
        q = (above * (span / extent)).sub_(max(0, span - LEVELS) / 2).round_().clamp_(0, LEVELS)
        q_sum, products, squares = q @ importance, (q * above) @ importance, (q * q) @ importance
        # Least squares of above = scale * q + base: what is left of the variance is less by the gain.
        covariance, variance = count * products - q_sum * total, (count * squares - q_sum**2).clamp(min=1e-20)
        scale = covariance / variance
        gain = covariance * scale
        better = gain > best_gain
        best_gain = torch.where(better, gain, best_gain)
        best_scale = torch.where(better, scale, best_scale)
        best_base = torch.where(better, (total - scale * q_sum) / count, best_base)
    return best_scale.bfloat16(), -(best_base + low[:, 0]).bfloat16()


def on_grid(weight: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """The q nearest to weights, as uint8."""
    inverse = torch.where(scale > 0, 1 / scale.float(), 0)
    return ((weight + offset.float()) * inverse).round_().clamp_(0, LEVELS).to(torch.uint8)
