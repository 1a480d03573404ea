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
            self._add_drafts(piece, seconds / rows)
        self.request_steps += len(decoded)
        if decoded:
            self.step_seconds += seconds

    def _add_drafts(self, piece: Decode, row: float) -> None:
        """Adds a tree's drafts by who drafted them; a row of the step took `row` seconds."""
        tree, step = piece.tree, piece.sequence.last_step
        extra = tree.extras_among(range(len(tree)))
        own = len(tree) - 1 - extra
        found = [(tree.source, own, step.accepted_drafts - step.extra)]
        if tree.extra:
            found.append((tree.extra.source, extra, step.extra))
        root = 1  # its row is that of the first who drafted
        for source, drafted, accepted in found:
            if drafted:
                counts = self.drafting[source]
                counts.steps += 1
                counts.drafted += drafted
                counts.accepted += accepted
                counts.seconds += row * (drafted + root)
                root = 0
