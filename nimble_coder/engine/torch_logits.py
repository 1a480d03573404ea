"""Logits that PyTorch has computed, on a CPU or a GPU."""

from dataclasses import dataclass

import torch

from nimble_coder.engine.likely import Floats, LikelyRows

FEW_OF_EACH = 128
"""Tokens that are found where many rows are looked at together, most of which nobody will draw from."""
ROWS = 64
"""Whose exponentials are summed together: fp32 copies of more would fill a GPU's memory."""


@dataclass(frozen=True)
class TorchLogits:
    """Implements `nimble_coder.engine.model.Logits`."""

    logits: torch.Tensor
    """`[rows, vocab_size]` in any dtype, on any device"""

    def __getitem__(self, rows: slice) -> Floats:
        """See `Logits`."""
        found: Floats = self.logits[rows].float().cpu().numpy()
        return found

    def likely(self, temperatures: Floats) -> LikelyRows | None:
        """See `Logits`. A GPU finds those of all rows sooner than those of a path's rows one after the other."""
        return likely_rows(self.logits, temperatures) if self.logits.device.type == "cuda" else None


def likely_rows(logits: torch.Tensor, temperatures: Floats) -> LikelyRows:
    """Found on the device of the logits `[rows, vocab_size]`; `temperatures` `[rows]`."""
    few = min(FEW_OF_EACH, logits.shape[1])
    divisors = torch.from_numpy(temperatures).to(logits.device)[:, None]
    values, tokens = logits.topk(few)
    totals = [
        (rows.float() / divisor).logsumexp(-1)
        for rows, divisor in zip(logits.split(ROWS), divisors.split(ROWS), strict=True)
    ]
    scaled, total = values.float() / divisors, torch.cat(totals)
    return LikelyRows(scaled.cpu().numpy(), tokens.cpu().numpy(), total.cpu().numpy(), few == logits.shape[1])
