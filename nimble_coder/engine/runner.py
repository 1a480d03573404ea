"""Runs a step's work on the model and brings its choices back, a piece of work at a time."""

from nimble_coder.engine.batch import BatchBuilder
from nimble_coder.engine.model import Model
from nimble_coder.engine.scheduler import Decode, Work


class ModelRunner:
    """Turns work into a batch, and what the model says of it into tokens."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def run(self, work: list[Work]) -> list[list[int]]:
        """One forward pass. For each piece of work, the chosen token behind every node of its tree, or behind the
        prompt's last token, or nothing for a chunk that does not end its prompt."""
        builder = BatchBuilder()
        counts = [self._add(builder, piece) for piece in work]
        outcome = self._model.run(builder.build(any(piece.sequence.sampler for piece in work)))
        outputs, start = [], 0
        for piece, count in zip(work, counts, strict=True):
            choices = outcome.choices[start : start + count]
            if count and piece.sequence.sampler and outcome.logits is not None:
                token, log_prob = piece.sequence.sampler.choose(outcome.logits[start])
                piece.sequence.log_probs.append(log_prob)
                choices = [token]
            outputs.append(choices)
            start += count
        return outputs

    def _add(self, builder: BatchBuilder, piece: Work) -> int:
        sequence = piece.sequence
        assert sequence.slot is not None, "scheduled without a slot"  # noqa: S101 - for the type checker
        if isinstance(piece, Decode):
            return builder.add_tree(sequence.slot, sequence.cached, piece.tree)
        return builder.add_chunk(sequence.slot, sequence.cached, piece.tokens, piece.is_last)
