"""Tokens per second of a way to draft, predicted: what it gains over what its steps cost (docs/cost-model.md).

What drafting gains depends on the model and the text, and is found by replaying recorded outputs. What a step costs
depends on the machine, and is timed by the step's rows. Neither knows the other, so that each can be exchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import zip_longest

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.contract.request import Request
from nimble_coder.engine.budget import Budget, StepCosts
from nimble_coder.engine.drafter import Drafter, Texts, make_drafter
from nimble_coder.engine.followers import Followers
from nimble_coder.planning.replay import Recording, Step, replay

Way = LookaheadConfig | int
"""(w,n,g), or the most draft tokens by matching suffixes."""


@dataclass(frozen=True)
class Gain:
    """What drafting brings, whatever a step costs: means over the steps of each sequence."""

    tokens: float
    """Committed per step."""
    rows: float
    """Computed per step."""

    @classmethod
    def of(cls, steps: Sequence[Step]) -> "Gain":
        """Raises `ZeroDivisionError` where nothing was decoded."""
        sequences = sum(step.sequences for step in steps)
        return cls(sum(step.tokens for step in steps) / sequences, sum(step.rows for step in steps) / sequences)


class Replays:
    """The steps that recorded outputs take under each way, so many at once: as many start together, and the next ones
    when the last of them has ended."""

    def __init__(self, recordings: Sequence[Recording], followers: Followers | None = None) -> None:
        self._recordings = recordings
        self._followers = followers
        self.alone = cache(self._alone)
        """By (w,n,g), each recording's steps by itself: who runs beside a sequence changes none of them."""

    def steps(self, way: Way, load: int, budget: Budget) -> list[Step]:
        """The budget cuts what suffixes draft; lookahead has the rows that it has."""
        count = max(len(self._recordings), load)
        together = [self._recordings[i % len(self._recordings)] for i in range(count)]
        waves = [range(first, min(first + load, count)) for first in range(0, count, load)]
        if isinstance(way, int):

            def suffixes(prompt: list[int]) -> Drafter:
                return make_drafter(
                    Request(prompt, 1, draft_tokens=way), None, Texts(prompt, followers=self._followers)
                )

            return [step for wave in waves for step in replay([together[i] for i in wave], suffixes, budget)]
        alone = self.alone(way)
        return [step for wave in waves for step in beside([alone[i % len(alone)] for i in wave])]

    def gain(self, config: LookaheadConfig) -> Gain:
        """What (w,n,g) brings, at any load."""
        return Gain.of([step for steps in self.alone(config) for step in steps])

    def _alone(self, config: LookaheadConfig) -> list[list[Step]]:
        budget = Budget(StepCosts({1: 1.0, 2: 1.0}))

        def lookahead(prompt: list[int]) -> Drafter:
            return make_drafter(Request(prompt, 1), config)

        return [replay([recording], lookahead, budget) for recording in self._recordings]


def beside(sequences: Sequence[Sequence[Step]]) -> list[Step]:
    """Steps of several sequences by themselves as steps of all of them together."""
    joined = []
    for steps in zip_longest(*sequences):
        running = [step for step in steps if step]
        joined.append(
            Step(
                sum(step.sequences for step in running),
                sum(step.rows for step in running),
                sum(step.tokens for step in running),
            )
        )
    return joined


@dataclass(frozen=True)
class CostModel:
    """Predicts for one model, text and machine."""

    recordings: Sequence[Recording]
    costs: Mapping[int, StepCosts]
    """What a step costs by its rows, by the sequences at once."""
    budget: Budget
    """By which the engine cuts its trees: what it believes that steps cost."""
    plain: Mapping[int, float]
    """Tokens per second of plain decoding, measured, by the sequences at once: what an engine does beside its steps."""
    followers: Followers | None = None
    """What the engine drafts from besides the text, where it knows the tokenizer."""

    @cached_property
    def _replays(self) -> Replays:
        return Replays(self.recordings, self.followers)

    def gain(self, way: Way, load: int) -> Gain:
        """What `way` brings with so many sequences at once."""
        return Gain.of(self._replays.steps(way, load, self.budget))

    def speed_up(self, way: Way, load: int) -> float:
        """Over plain decoding: the same tokens in other steps."""
        return self._seconds(PLAIN, load) / self._seconds(way, load)

    def tokens_per_second(self, way: Way, load: int) -> float:
        """Of all sequences together."""
        return self.plain[load] * self.speed_up(way, load)

    def _seconds(self, way: Way, load: int) -> float:
        return sum(self.costs[load].of(step.rows) for step in self._replays.steps(way, load, self.budget))
