"""What the engine can take and how much of it one client may have: checked before Triton sees a request.

The TensorRT engine does not check for itself: one (w,n,g) above its own ends every request in flight, a prompt shorter
than n - 1 tokens reads out of bounds, and an over-long one is silently shortened.
"""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Gauge

from build_engine.artifact import Artifact
from build_engine.engine_config import EngineConfig
from build_engine.lookahead import PLAIN, LookaheadConfig, LookaheadError
from nimble_coder.contract.refusals import ENGINE_LOST
from nimble_coder.gateway.access.keys import ApiKeys
from nimble_coder.gateway.access.ledger import Ledger
from nimble_coder.gateway.errors import DRAINING, ApiError


@dataclass(frozen=True)
class EngineLimits:
    """The engine's own limits, from the artefact's manifest. Lengths are in tokens."""

    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    vocab_size: int
    lookahead: LookaheadConfig
    """What a request gets that names none."""
    most_lookahead: LookaheadConfig
    """Up to which a request may name one."""

    @classmethod
    def of(cls, artifact: Artifact, max_model_len: int | None = None) -> "EngineLimits":
        """Reads manifest and engine configuration; `max_model_len` lowers the engine's own bound on the sequence."""
        profile = artifact.manifest.profile
        return cls(
            max_batch_size=profile.max_batch_size,
            max_input_len=profile.max_input_len,
            max_seq_len=min(profile.max_seq_len, max_model_len or profile.max_seq_len),
            vocab_size=EngineConfig.read(artifact.engine).shape.vocab_size,
            lookahead=profile.lookahead,
            most_lookahead=profile.most_lookahead,
        )

    @property
    def longest_prompt(self) -> int:
        """The longest prompt that leaves room for one token."""
        return min(self.max_input_len, self.max_seq_len - 1)

    def kept(self, ids: list[int], last: int | None) -> list[int]:
        """A prompt's last tokens, as many as vLLM's `truncate_prompt_tokens` says: -1 is what fits, None all.

        Raises `ApiError` for 0, which leaves nothing of a prompt.
        """
        if last == 0:
            text = "truncate_prompt_tokens is 0, which leaves no prompt: send 1 or more, or -1 for what fits"
            raise ApiError(400, text, "invalid_value", "truncate_prompt_tokens")
        count = len(ids) if last is None else self.longest_prompt if last < 0 else last
        return ids[max(len(ids) - count, 0) :]

    @property
    def max_model_len(self) -> int:
        """What clients are told: a prompt that leaves room for one token of this is accepted."""
        return self.longest_prompt + 1

    def check_prompt(self, length: int, field: str = "prompt") -> None:
        """Raises `ApiError` for a prompt without tokens or with too many, which that field of the request holds."""
        if length < 1:
            raise ApiError(400, "the prompt is empty: send at least one token", "empty_prompt", field)
        if length > self.longest_prompt:
            raise ApiError(
                400,
                f"the prompt has {length} tokens, this model takes at most {self.longest_prompt}: shorten the prompt",
                "context_length_exceeded",
                field,
            )

    def choose_lookahead(self, asked: LookaheadConfig | None, prompt_length: int) -> LookaheadConfig | None:
        """The (w,n,g) to send; None leaves the engine its own. Raises `ApiError` for one beyond the engine's.

        A prompt shorter than n - 1 tokens is decoded plainly unless (w,n,g) was asked for; the output is the same.
        """
        if self.lookahead.is_plain and (asked is None or asked.is_plain):
            return None  # an engine without lookahead does not even know the inputs
        if asked is None:
            return PLAIN if prompt_length < self.lookahead.ngram_size - 1 else None
        try:
            asked.check_within(self.most_lookahead)
        except LookaheadError as error:
            raise ApiError(400, str(error), "lookahead_exceeds_engine", "lookahead") from None
        if prompt_length < asked.ngram_size - 1:
            raise ApiError(
                400,
                f"the prompt has {prompt_length} tokens, lookahead {asked} needs at least {asked.ngram_size - 1}: "
                f"send a smaller n, or false for plain decoding",
                "prompt_shorter_than_ngram",
                "lookahead",
            )
        return asked

    def room(self, prompt_length: int, asked: int | None, default: int) -> int:
        """The tokens to generate: what was asked for, or the default, at most what fits behind the prompt."""
        room = self.max_seq_len - prompt_length
        return room if asked is not None and asked < 0 else min(default if asked is None else asked, room)


class Admission:
    """Counts the generations in flight in all workers; those beyond the limit are told to come back.

    Where clients have keys of their own, the last places are for those who have none in flight: one client, however
    many requests it sends, leaves room for the first of another.
    """

    def __init__(self, limit: int, ledger: Ledger, gauge: Gauge, keys: ApiKeys | None = None) -> None:
        self.limit = limit
        self._keys = keys
        self.own = 0
        """Generations in flight in this worker."""
        self._ledger = ledger
        self._gauge = gauge
        self._tasks: set[asyncio.Task[object] | None] = set()
        self._abandoned: dict[asyncio.Task[object] | None, ApiError] = {}
        self.draining = False
        self.doubted = asyncio.Event()
        """Set where a request was told that a model's process is lost; `Health` then asks the engine at once."""

    @property
    def takes_work(self) -> bool:
        """False while draining, and while nobody knows whether the engine lives."""
        return not self.draining and not self.doubted.is_set()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left that `abandon` could end."""
        return not self._tasks

    def abandon(self, error: ApiError) -> None:
        """Ends this worker's generations with an error: nobody will answer them."""
        for task in self._tasks - {asyncio.current_task()}:
            if task is not None:
                self._abandoned[task] = error
                task.cancel()

    @property
    def active(self) -> int:
        """Generations in flight in all workers."""
        return self._ledger.active

    @property
    def kept(self) -> int:
        """Places that are for clients who have none: a quarter where there are several keys."""
        return max(self.limit // 4, 1) if self._keys and self._keys.are_several else 0

    @property
    def most(self) -> int:
        """Places that one client may have."""
        return max(self.limit - self.kept, 1)

    def enter(self, client: str, count: int = 1) -> None:
        """Takes `count` places; raises `ApiError` 503 while draining, 429 when there are too few, 400 for more than one
        client may have. What generates nothing needs none, and is never refused."""
        if not count:
            return
        kept = self.kept
        if count > (most := self.most):
            text = f"{count} answers in one request, {most} generations at once is the limit: ask for fewer"
            raise ApiError(400, text, "too_many_choices", "n")
        if self.draining:
            raise draining()
        if not self._ledger.add(count, self.limit, client, kept):
            what = f", {kept} of them for clients who have none" if kept else ""
            text = (
                f"{self.active} generations are running or waiting, {self.limit} is the limit{what}: try again shortly"
            )
            raise ApiError(429, text, "too_many_requests", retry_after=1)
        self._hold(count)

    def leave(self, client: str, count: int = 1) -> None:
        """Gives places back."""
        if not count:
            return
        self._hold(-count)
        self._ledger.add(-count, client=client)

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """Lets `abandon` end the running task here: raises its error then."""
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._abandoned:
                raise
            raise self._abandoned[task] from None
        finally:
            self._tasks.discard(task)
            self._abandoned.pop(task, None)

    @contextmanager
    def admit(self, client: str, count: int = 1) -> Iterator[None]:
        """Holds `count` places for the running task; raises what `enter` and `abandonable` raise."""
        self.enter(client, count)
        try:
            with self.abandonable():
                yield
        finally:
            self.leave(client, count)

    def _hold(self, count: int) -> None:
        self.own += count
        self._gauge.set(self.own)


def draining() -> ApiError:
    """The refusal of a service that shuts down."""
    return ApiError(503, "the service is shutting down: send the request again", DRAINING, retry_after=5)


def engine_lost() -> ApiError:
    """The end of what ran in an engine whose process has died."""
    return ApiError(503, "the engine has failed: send the request again", ENGINE_LOST, retry_after=1)


class RateLimiter:
    """`per_minute` requests a client, all of which may come at once; 0 is unlimited."""

    def __init__(self, per_minute: int, ledger: Ledger) -> None:
        self._per_minute = per_minute
        self._ledger = ledger

    def check(self, client: str) -> None:
        """Takes one request from the client's allowance; raises `ApiError` 429 with the wait where it is used up."""
        if self._per_minute and (wait := self._ledger.take(client, self._per_minute)):
            text = f"more than {self._per_minute} requests in a minute: wait {math.ceil(wait)} s"
            raise ApiError(429, text, "rate_limit_exceeded", retry_after=math.ceil(wait))
