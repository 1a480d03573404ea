"""The most likely tokens behind a row of logits: what a cut leaves of 150,000 seldom is more than a few of them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

FEW = 1024
"""Tokens that are sorted at first. One of 152k took 56 ms with top-k 20 on a busy core when all were sorted; now 3."""
FEW_OF_EACH = 128
"""The same where many rows are sorted together, most of which nobody will draw from."""
ROWS = 64
"""Whose exponentials are summed together: fp32 copies of more would fill a GPU's memory."""


@dataclass(frozen=True)
class Likely:
    """The most likely tokens of one row, on the CPU."""

    logits: NDArray[np.float32]
    """`[few]`, divided by the temperature, in descending order"""
    tokens: NDArray[np.int64]
    """`[few]`"""
    total: float
    """The logarithm of the sum of all tokens' exponentials"""
    is_all: bool
    """Whether no token is less likely."""

    @classmethod
    def of(cls, logits: torch.Tensor, temperature: float, few: int) -> "Likely":
        """Of logits `[vocab_size]`, fp32, on any device."""
        scaled = logits / temperature
        total = float(scaled.logsumexp(-1))
        if few >= len(scaled):
            ordered, tokens = scaled.cpu().sort(descending=True, stable=True)
            return cls(ordered.numpy(), tokens.numpy(), total, is_all=True)
        ordered, tokens = scaled.topk(few)
        return cls.in_order(ordered.cpu().numpy(), tokens.cpu().numpy(), total, is_all=False)

    @classmethod
    def in_order(cls, logits: NDArray[np.float32], tokens: NDArray[np.int64], total: float, is_all: bool) -> "Likely":
        """Equal logits in the order of their tokens, which `topk` leaves open: it could differ by rows."""
        order = np.lexsort((tokens, -logits))
        return cls(logits[order], tokens[order], total, is_all)


@dataclass(frozen=True)
class LikelyRows:
    """Of some rows, found together where the logits are: a draw from one of them does not wait for the device."""

    logits: NDArray[np.float32]
    """`[rows, few]`, divided by the temperature"""
    tokens: NDArray[np.int64]
    """`[rows, few]`"""
    totals: NDArray[np.float32]
    """`[rows]`"""
    is_all: bool

    @classmethod
    def of(cls, logits: torch.Tensor, temperatures: NDArray[np.float32]) -> "LikelyRows":
        """`logits` `[rows, vocab_size]` in any dtype, `temperatures` `[rows]`."""
        few = min(FEW_OF_EACH, logits.shape[1])
        divisors = torch.from_numpy(temperatures).to(logits.device)[:, None]
        values, tokens = logits.topk(few)
        totals = [
            (rows.float() / divisor).logsumexp(-1)
            for rows, divisor in zip(logits.split(ROWS), divisors.split(ROWS), strict=True)
        ]
        scaled, total = values.float() / divisors, torch.cat(totals)
        return cls(scaled.cpu().numpy(), tokens.cpu().numpy(), total.cpu().numpy(), few == logits.shape[1])

    def __getitem__(self, rows: slice) -> "LikelyRows":
        return LikelyRows(self.logits[rows], self.tokens[rows], self.totals[rows], self.is_all)

    def row(self, row: int) -> Likely:
        return Likely.in_order(self.logits[row], self.tokens[row], float(self.totals[row]), self.is_all)
