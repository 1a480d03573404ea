"""Running totals of an engine, written by its thread alone."""

from nimble_coder.engine.protocol import SOURCES, DraftTotals
from nimble_coder.engine.scheduler import Decode, Prefill, Work


class Counters:
    """Since the start; fields as in `nimble_coder.engine.protocol.Statistics`."""

    def __init__(self) -> None:
        self.iterations = 0
        self.prompt_tokens = 0
        self.reused_prompt_tokens = 0
        self.generated_tokens = 0
        self.accepted_draft_tokens = 0
        self.draft_tokens = 0
        self.request_steps = 0
        self.step_seconds = 0.0
        self.drafting = {source: DraftTotals() for source in SOURCES}

    def add(self, work: list[Work], seconds: float) -> None:
        """Adds one step."""
        self.iterations += 1
        decoded = [piece for piece in work if isinstance(piece, Decode)]
        for piece in work:
            if isinstance(piece, Prefill) and not piece.sequence.is_prefill:
                self.generated_tokens += 1
                self.prompt_tokens += piece.sequence.prompt_length
                self.reused_prompt_tokens += piece.sequence.reused
        rows = sum(len(piece.tree) for piece in decoded)
        for piece in decoded:
            step = piece.sequence.last_step
            self.generated_tokens += step.tokens
            self.accepted_draft_tokens += step.accepted_drafts
            self.draft_tokens += step.drafts
            if len(piece.tree) > 1:
                counts = self.drafting[piece.tree.source]
                counts.steps += 1
                counts.drafted += len(piece.tree) - 1
                counts.accepted += step.accepted_drafts
                counts.seconds += seconds * len(piece.tree) / rows
        self.request_steps += len(decoded)
        if decoded:
            self.step_seconds += seconds
