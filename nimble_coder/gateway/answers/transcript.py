"""One answer as it grows: tokens in, text out, and why it ended."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from nimble_coder.contract.response import Ranked
from nimble_coder.gateway.answers.bodies.completion import FinishReason
from nimble_coder.gateway.upstream.token_stream import Step
from nimble_coder.text.detokenizer import Detokenizer
from nimble_coder.text.stops import StopMatcher
from nimble_coder.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Delta:
    """What a step adds to an answer."""

    text: str
    """May lag behind the tokens: what could still be part of a stop string or of a character waits."""
    token_ids: list[int]
    log_probs: list[float]
    """One per token, where they were asked for."""
    top: list[Ranked]
    """The most likely tokens in the place of each, where they were asked for."""


@dataclass(frozen=True)
class Ending:
    """What ends an answer besides the model. Lengths are in tokens."""

    max_tokens: int
    end_ids: frozenset[int]
    stops: tuple[str, ...] = ()
    min_tokens: int = 0
    """End ids before so many tokens are passed over, and stop strings in their text."""
    asked_tokens: int = 0
    """What the engine was asked for: more than `max_tokens` where end ids may have to be passed over."""
    stop_ids: Mapping[int, int | str] = field(default_factory=dict)
    """Ids a request asked to stop at, each as itself or as the stop string that spells it; they end it even where
    `end_ids` are ignored."""
    seconds_after_first_line: float | None = None
    """llama.cpp's `t_max_predict_ms`: the time from the first token on, once a line is complete."""
    shows_stop: bool = False
    """The stop string or id that ends it is part of it."""


class Transcript:
    """Detokenises, finds end ids and stop strings, and counts."""

    def __init__(self, tokenizer: TextTokenizer, ending: Ending, prompt_tokens: int = 0) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens: int | None = None
        """Of the prompt; None where the engine has not said it, as when a stop string forestalls its last response."""
        self._ending = ending
        self._ends = ending.end_ids | ending.stop_ids.keys()
        self._detokenizer = Detokenizer(tokenizer.decode, tokenizer.token_bytes)
        self._stops = StopMatcher(ending.stops, ending.shows_stop)
        self._has_line = False
        self.started = time.perf_counter()
        self.first_token: float | None = None
        """When, as `time.perf_counter` tells."""
        self.finished = self.started
        self.token_ids: list[int] = []
        self.log_probs: list[float] = []
        self.top: list[Ranked] = []
        self.prompt: list[tuple[float, Ranked]] = []
        """Log probability and alternatives of each token of the prompt but the first, where they were asked for."""
        self._received = 0
        """Tokens of the engine, those passed over included."""
        self.steps = 0
        self.finish_reason: FinishReason | None = None
        """None while it goes on."""
        self.ended_by_id = False
        self._stop_id: int | str | None = None
        """Which of `stop_ids` it was, as the request has it."""
        self.accepted_draft_tokens = 0
        self.draft_tokens = 0

    @property
    def stop_string(self) -> str | None:
        return self._stops.matched

    @property
    def stop_reason(self) -> int | str | None:
        """What of the request ended it (vLLM's name): a stop string, or an id that the model does not end with."""
        return self._stop_id if self.stop_string is None else self.stop_string

    @property
    def _spelled_stop(self) -> str:
        """The stop string that ended it by its id, and so does not show of itself, where it is to be shown."""
        return self._stop_id if self._ending.shows_stop and isinstance(self._stop_id, str) else ""

    @property
    def scores(self) -> int:
        """How many log probabilities there are of it and of its prompt: what it takes to write them goes by that."""
        return len(self.log_probs) + sum(map(len, self.top)) + sum(len(ranked) + 1 for _, ranked in self.prompt)

    @property
    def tokens(self) -> int:
        return len(self.token_ids)

    def push(self, step: Step) -> Delta:
        """What a step adds for certain; sets `finish_reason` where it is the last."""
        now = time.perf_counter()
        if self.first_token is None and step.token_ids:
            self.first_token = now - step.decode_seconds  # an answer that comes whole had its first token long before
        self.finished = now
        self.steps += 1
        self._received += len(step.token_ids)
        ids, text = self._read(self._until_end(step.token_ids))
        self.token_ids += ids
        log_probs, top = step.log_probs[: len(ids)], step.top[: len(ids)]
        if log_probs or step.prompt:
            self.log_probs += log_probs
            self.top += top
            self.prompt += step.prompt
        if step.is_final:
            self.accepted_draft_tokens, self.draft_tokens = step.accepted_draft_tokens, step.draft_tokens
            self.cached_tokens = step.cached_tokens
        if self._stops.matched is not None:
            self.finish_reason = "stop"
        elif step.is_final or self.ended_by_id or self.tokens >= self._ending.max_tokens or self._is_late(now):
            text += self._stops.push(self._detokenizer.finish()) + self._stops.flush() + self._spelled_stop
            asked = max(self._ending.asked_tokens, self._ending.max_tokens)
            natural = self.ended_by_id or (step.is_final and self._received < asked)
            self.finish_reason = "stop" if natural or self._stops.matched is not None else "length"
        return Delta(text, ids, log_probs, top)

    def _read(self, ids: list[int]) -> tuple[list[int], str]:
        """The tokens up to the one that completes a stop string, and the text that is certain."""
        free = max(self._ending.min_tokens - len(self.token_ids), 0)
        if not (free or self._ending.stops):
            piece = self._detokenizer.push(ids)
            self._has_line = self._has_line or "\n" in piece
            return ids, piece
        before = self._detokenizer.push(ids[:free]) if free else ""
        ids, rest = ids[:free], ids[free:]
        pending, held = self._detokenizer.pending, self._stops.held
        piece = self._detokenizer.push(rest)
        self._has_line = self._has_line or "\n" in before or "\n" in piece
        text = self._stops.push(piece)
        if self._stops.matched is None:
            return [*ids, *rest], before + text
        # Once an answer: which of the tokens it was. Plain decoding would have gone no further.
        self._detokenizer.pending, self._stops.held, self._stops.matched = pending, held, None
        text, count = "", 0
        while self.stop_string is None and count < len(rest):
            text += self._stops.push(self._detokenizer.push(rest[count : count + 1]))
            count += 1
        return [*ids, *rest[:count]], before + text

    def _until_end(self, ids: list[int]) -> list[int]:
        room = self._ending.max_tokens - self.tokens
        if self._ends.isdisjoint(ids):
            return ids[:room]
        kept: list[int] = []
        for token in ids:
            if len(kept) == room:
                break
            if token not in self._ends:
                kept.append(token)
            elif self.tokens + len(kept) >= self._ending.min_tokens:
                self.ended_by_id = True
                self._stop_id = None if token in self._ending.end_ids else self._ending.stop_ids[token]
                kept += [token] if self._ending.shows_stop and self._stop_id is not None else []
                break
        return kept

    def _is_late(self, now: float) -> bool:
        limit = self._ending.seconds_after_first_line
        return limit is not None and self._has_line and self.first_token is not None and now - self.first_token > limit
