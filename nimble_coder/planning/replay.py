"""What drafting gains, found without the model: outputs that were recorded are drafted anew.

Drafts are verified against the model's own tokens, and those are in the recording. So a drafter that looks at tokens
alone, as that by suffixes does, takes exactly the steps that it takes on an engine, on any machine. Lookahead's window
also keeps what the model says behind drafts that turn out wrong, which nobody has recorded: a replay draws nothing from
it, and docs/cost-model.md says how little that changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from nimble_coder.engine.budget import Budget, most_drafted
from nimble_coder.engine.drafter import Drafter
from nimble_coder.engine.tree import TokenTree, verify


@dataclass(frozen=True)
class Recording:
    """A prompt and what the model writes behind it greedily, in token ids."""

    prompt: list[int]
    output: list[int]


@dataclass(frozen=True)
class Step:
    """One step of all sequences together."""

    sequences: int
    rows: int
    tokens: int
    """Committed."""


class Replayed:
    """A request whose output is known: what `nimble_coder.engine.sequence.Sequence` is on an engine."""

    def __init__(self, recording: Recording, drafter: Drafter) -> None:
        """Begins behind the first token, which the prompt gives."""
        self._text = [*recording.prompt, *recording.output]
        self._committed = len(recording.prompt) + 1
        self._drafter = drafter
        self._unknown = count(-1, -1)
        drafter.commit(recording.output[:1])

    @property
    def is_finished(self) -> bool:
        return self._committed >= len(self._text)

    def draft(self, most: int) -> TokenTree:
        """See `Drafter.draft`."""
        return self._drafter.draft(self._text[self._committed - 1], most)

    def advance(self, tree: TokenTree) -> int:
        """Verifies a step; returns how many tokens it commits."""
        outputs = self._outputs(tree)
        accepted, _ = verify(tree, outputs, self._drafter.longest_path)
        accepted = accepted[: len(self._text) - self._committed]
        self._committed += len(accepted)
        if not self.is_finished:
            self._drafter.update(tree, outputs, accepted)
        return len(accepted)

    def _outputs(self, tree: TokenTree) -> list[int]:
        """The token behind each node of the tree: the recorded one along the path that is recorded, else one that is
        like no other, so that it takes the rows that a wrong guess takes."""
        outputs, node = [next(self._unknown) for _ in tree.tokens], 0
        for token in self._text[self._committed :]:
            outputs[node] = token
            child = tree.child(node, token)
            if child is None:
                break
            node = child
        return outputs


def replay(recordings: Sequence[Recording], make: Callable[[list[int]], Drafter], budget: Budget) -> list[Step]:
    """The steps of requests that run together, each drafted for by what `make` makes of its prompt: from their first
    tokens, which all have, to the end of the last one."""
    running = [Replayed(recording, make(recording.prompt)) for recording in recordings]
    steps = []
    while running := [each for each in running if not each.is_finished]:
        trees = budget.cut([each.draft(most_drafted(len(running))) for each in running])
        tokens = sum(each.advance(tree) for each, tree in zip(running, trees, strict=True))
        steps.append(Step(len(running), sum(map(len, trees)), tokens))
    return steps
