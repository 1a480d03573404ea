"""One request while it runs: its tokens, how far its KV cache reaches, and what it has cost."""

import time
from collections import defaultdict
from dataclasses import dataclass

from nimble_coder.contract.request import Request, Sampling
from nimble_coder.contract.response import TOKENS_PER_BLOCK, FinishReason, PerfMetrics, Response
from nimble_coder.engine.drafter import Drafter
from nimble_coder.engine.form import Form
from nimble_coder.engine.form_drafter import FormDrafter
from nimble_coder.engine.sampler import Sampler
from nimble_coder.engine.tree import TokenTree, verify

GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class StepCount:
    """What one decoding step brought: tokens committed, and drafts that could have been accepted at most."""

    tokens: int
    drafts: int
    extra: int = 0
    """Of the accepted drafts those that joined the tree as extra ones."""

    @property
    def accepted_drafts(self) -> int:
        return max(self.tokens - 1, 0)


@dataclass(frozen=True)
class Limits:
    """What an engine has room for."""

    max_seq_len: int
    rows_per_step: int
    """Of one sequence: the root of its tree and the drafts."""


class Sequence:
    """State of one request. The newest token's KV entry is never in the cache: it is the input of the next step."""

    def __init__(
        self, request_id: int, request: Request, drafter: Drafter, limits: Limits, form: Form | None = None
    ) -> None:
        """`form` is at its beginning, where the request is held to one."""
        self.request_id = request_id
        self.request = request
        self.tokens = list(request.input_ids)
        self.cached = 0
        """Tokens whose KV entries are in the slot."""
        self.slot: int | None = None
        self.cancelled = False
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self.reused = 0
        """Prompt tokens whose KV entries were there already."""
        self.drafter = drafter
        if form and self.drafter.longest_path:
            self.drafter = FormDrafter(self.drafter, form, limits.rows_per_step)
        sampling = request.sampling or (GREEDY if form else None)
        self.sampler = Sampler(sampling, request.input_ids, request.ends, request.seed, form) if sampling else None
        self._stop_words: defaultdict[int, list[list[int]]] = defaultdict(list)
        """By their last token: a token ends the output with few of them at most."""
        for word in request.stop_words:
            self._stop_words[word[-1]].append(word)
        self.log_probs: list[float] = []
        # As TensorRT-LLM does: a request for more than fits gets what fits.
        self._limit = min(len(self.tokens) + request.max_tokens, limits.max_seq_len)
        self._sent = len(self.tokens)
        self.last_step = StepCount(0, 0)
        self._accepted_drafts = 0
        self._drafts = 0
        self._arrival = time.monotonic_ns()
        self._first_scheduled = 0
        self._first_token = 0
        self._last_token = 0

    @property
    def prompt_length(self) -> int:
        return len(self.request.input_ids)

    @property
    def is_prefill(self) -> bool:
        return len(self.tokens) == self.prompt_length

    @property
    def unread(self) -> int:
        """Tokens without KV entries: of a prompt, or the newest one."""
        return len(self.tokens) - self.cached

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's own log probabilities are wanted, for which all of it has to be computed."""
        return bool(self.request.sampling and self.request.sampling.prompt_log_probs)

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    def start(self, slot: int, reused: int) -> None:
        """Gives the sequence its place in the KV cache, which holds its first `reused` tokens already."""
        self.slot = slot
        self.cached = self.reused = reused
        self._first_scheduled = time.monotonic_ns()

    def fail(self, error: Exception) -> None:
        """Ends it with an error response; the step that failed has brought nothing."""
        self.error = f"Encountered an error in the decoding step: {error}"
        self.last_step = StepCount(0, 0)

    def draft(self, most: int) -> TokenTree:
        """The input of the next decoding step, with at most `most` draft tokens that may be left out."""
        return self.drafter.draft(self.tokens[-1], most)

    def advance(self, tree: TokenTree, outputs: list[int]) -> list[int]:
        """Verifies a step and commits what holds; returns the path's nodes whose KV entries stay."""
        accepted, path = verify(tree, outputs, self.drafter.longest_path)
        committed = self._commit(accepted)
        extra = tree.extras_among(path[: max(len(committed) - 1, 0)])
        self.last_step = StepCount(len(committed), min(len(tree) - 1, self.drafter.longest_path), extra)
        self._accepted_drafts += self.last_step.accepted_drafts
        self._drafts += self.last_step.drafts
        if self.is_finished:
            self.cached += 1  # the root's entry; those of the path are nobody's any more
            return []
        self.cached += 1 + len(path)
        self.drafter.update(tree, outputs, committed)
        return path

    def begin(self, token: int) -> None:
        """Commits the first generated token, which the prompt's last position gave."""
        committed = self._commit([token])
        if not self.is_finished:
            self.drafter.commit(committed)

    def _commit(self, accepted: list[int]) -> list[int]:
        """Appends tokens up to the first thing that ends the generation; returns those appended."""
        self._last_token = time.monotonic_ns()
        self._first_token = self._first_token or self._last_token
        before = len(self.tokens)
        for token in accepted:
            if token == self.request.end_id:
                self.finish_reason = FinishReason.END_ID
                break
            self.tokens.append(token)
            if self._ends_with_stop_word():
                self.finish_reason = FinishReason.STOP_WORDS
                break
            if len(self.tokens) >= self._limit:
                self.finish_reason = FinishReason.LENGTH
                break
            if self._completes_form():
                self.finish_reason = FinishReason.END_ID  # nothing but an end could follow
                break
        return self.tokens[before:]

    def _ends_with_stop_word(self) -> bool:
        generated = len(self.tokens) - self.prompt_length
        if self.request.sampling and generated < self.request.sampling.min_tokens:
            return False
        words = self._stop_words.get(self.tokens[-1], ())
        return any(len(word) <= generated and self.tokens[-len(word) :] == word for word in words)

    def _completes_form(self) -> bool:
        sampler, generated = self.sampler, len(self.tokens) - self.prompt_length
        return sampler is not None and sampler.is_over and sampler.chosen == generated

    def take_response(self) -> Response | None:
        """What the client has not been sent yet, or None where there is nothing to send now."""
        if not self.is_finished and (not self.request.streaming or self._sent == len(self.tokens)):
            return None
        delta, self._sent = self.tokens[self._sent :], len(self.tokens)
        metrics = self._metrics() if self.is_finished and self._first_scheduled else None
        if not (self.request.sampling and self.request.sampling.log_probs):
            return Response(self.request_id, delta, self.finish_reason, metrics, self.error)
        # An end id has a log probability too, but is not part of the output.
        until = len(self.tokens) - self.prompt_length
        new = slice(until - len(delta), until)
        return Response(
            self.request_id,
            delta,
            self.finish_reason,
            metrics,
            self.error,
            self.log_probs[new],
            sum(self.log_probs[:until]),
            self.sampler.top_log_probs[new] if self.sampler and self.request.sampling.top_log_probs else None,
            self.sampler.prompt_log_probs if self.sampler and self.scores_prompt and new.start == 0 else None,
        )

    def _metrics(self) -> PerfMetrics:
        return PerfMetrics(
            arrival_time_ns=self._arrival,
            first_scheduled_time_ns=self._first_scheduled,
            first_token_time_ns=self._first_token,
            last_token_time_ns=self._last_token,
            total_accepted_draft_tokens=self._accepted_drafts,
            total_draft_tokens=self._drafts,
            kv_cache_reused_blocks=self.reused // TOKENS_PER_BLOCK,
            kv_cache_alloc_total_blocks=-(-len(self.tokens) // TOKENS_PER_BLOCK),
        )
