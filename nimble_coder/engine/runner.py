"""Runs a step's work on the model and brings its choices back, a piece of work at a time."""

from dataclasses import dataclass

import numpy as np

from nimble_coder.engine.batch import BatchBuilder
from nimble_coder.engine.likely import LikelyRows
from nimble_coder.engine.model import Logits, Model
from nimble_coder.engine.sampler import Sampler
from nimble_coder.engine.scheduler import Decode, Prefill, Work
from nimble_coder.engine.sequence import Sequence
from nimble_coder.engine.tree import TokenTree


class ModelRunner:
    """Turns work into a batch, and what the model says of it into tokens."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def seconds(self, rows: int, sequences: int = 1, cached: int = 0) -> float:
        """Times a step of so many rows that sequences share, one at least for each, behind `cached` tokens of theirs.
        It writes into the first slots, which must be free."""
        builder = BatchBuilder()
        for slot in range(sequences):
            tree = TokenTree(0)
            tree.add_path(0, [0] * (rows * (slot + 1) // sequences - rows * slot // sequences - 1))
            builder.add_tree(slot, cached, tree)
        return self._model.seconds(builder.build(wants_logits=False))

    def run(self, work: list[Work]) -> list[list[int] | Exception]:
        """One forward pass. For each piece of work, the chosen token behind every node of its tree, or behind the
        prompt's last token, or nothing for a chunk that does not end its prompt; or why no token could be drawn for it,
        which is no reason for the others to fail."""
        builder = BatchBuilder()
        counts = [self._add(builder, piece) for piece in work]
        outcome = self._model.run(builder.build(any(piece.sequence.sampler for piece in work)))
        likely = self._likely(work, counts, outcome.logits)
        outputs: list[list[int] | Exception] = []
        start = 0
        for piece, count in zip(work, counts, strict=True):
            choices = outcome.choices[start : start + count]
            rows = None if outcome.logits is None else Rows(outcome.logits, likely, start)
            if isinstance(piece, Prefill) and piece.sequence.scores_prompt and rows:
                outputs.append(self._score(piece, choices, rows))
            elif count and piece.sequence.sampler and rows:
                tree = piece.tree if isinstance(piece, Decode) else None
                outputs.append(self._draw(piece.sequence, piece.sequence.sampler, tree, choices, rows))
            else:
                outputs.append(choices)
            start += count
        return outputs

    def _score(self, piece: Prefill, choices: list[int], rows: "Rows") -> list[int] | Exception:
        """Scores a chunk of a prompt, and draws behind its end."""
        sequence, sampler = piece.sequence, piece.sequence.sampler
        assert sampler is not None, "scored without a sampler"  # noqa: S101 - for the type checker
        first = sequence.cached + 1
        following = sequence.tokens[first : first + len(piece.tokens)]
        try:
            sampler.score(rows.logits[rows.first : rows.first + len(following)], following)
        except Exception as error:
            return error
        last = Rows(rows.logits, rows.likely, rows.first + len(choices) - 1)
        return self._draw(sequence, sampler, None, choices[-1:], last) if piece.is_last else []

    def _likely(self, work: list[Work], counts: list[int], logits: Logits | None) -> LikelyRows | None:
        """The most likely tokens of all rows, where that is sooner than to find them row by row along the paths."""
        temperatures = [piece.sequence.sampler.temperature if piece.sequence.sampler else None for piece in work]
        if logits is None or not any(temperatures):
            return None
        return logits.likely(np.repeat(np.array([each or 1.0 for each in temperatures], np.float32), counts))

    def _draw(
        self, sequence: Sequence, sampler: Sampler, tree: TokenTree | None, choices: list[int], rows: "Rows"
    ) -> list[int] | Exception:
        """The choices with those drawn in place of the model's own along the path that they make through the tree.

        At each node plain decoding would draw the same token: from the same logits, after the same tokens, with the
        next random number. So the output is that of plain sampling, whatever was drafted.
        """
        outputs, node, length = list(choices), 0, 0
        try:
            while True:
                outputs[node], log_prob = rows.choose(sampler, node)
                sequence.log_probs.append(log_prob)
                child = tree.child(node, outputs[node]) if tree and length < sequence.drafter.longest_path else None
                if child is None or sampler.is_over:
                    return outputs
                node, length = child, length + 1
        except Exception as error:
            return error

    def _add(self, builder: BatchBuilder, piece: Work) -> int:
        sequence = piece.sequence
        assert sequence.slot is not None, "scheduled without a slot"  # noqa: S101 - for the type checker
        if isinstance(piece, Decode):
            return builder.add_tree(sequence.slot, sequence.cached, piece.tree)
        return builder.add_chunk(
            sequence.slot, sequence.cached, piece.tokens, piece.is_last, wants_all=sequence.scores_prompt
        )


@dataclass(frozen=True)
class Rows:
    """The rows of a step from the first of one piece of work on."""

    logits: Logits
    likely: LikelyRows | None
    """Of all rows, where they were found together."""
    first: int

    def choose(self, sampler: Sampler, node: int) -> tuple[int, float]:
        """The token behind a node, and its log probability; the logits are brought here only where they are needed."""
        row = self.first + node
        if self.likely and sampler.temperature:
            token = sampler.choose_likely(self.likely.row(row))
            if token is not None:
                return token, 0.0
        return sampler.choose(self.logits[row : row + 1][0])
