"""What a request consumed, in OpenAI's `usage` object and for a trace."""

from collections.abc import Sequence

from nimble_coder.gateway.answers.bodies.usage import DraftCounts, PromptCounts, Usage
from nimble_coder.gateway.answers.transcript import Transcript


def usage_of(prompt_tokens: int, transcripts: Sequence[Transcript]) -> Usage:
    """The counts of drafts are whole once the engine has sent its last response, which a stop string may forestall."""
    completion = sum(t.tokens for t in transcripts)
    accepted = sum(t.accepted_draft_tokens for t in transcripts)
    rejected = sum(t.draft_tokens for t in transcripts) - accepted
    total = prompt_tokens + completion
    return Usage(
        prompt_tokens, completion, total, DraftCounts(accepted, rejected), cached_of(prompt_tokens, transcripts)
    )


def cached_of(prompt_tokens: int, transcripts: Sequence[Transcript]) -> PromptCounts | None:
    """The part of the prompts that nothing had to be computed for; None where the engine has not said it.

    Several answers to one prompt find there what the first of them has computed: that was not spared.
    """
    known = [t.cached_tokens for t in transcripts if t.cached_tokens is not None]
    if not transcripts or len(known) < len(transcripts):
        return None
    computed = sum(t.prompt_tokens for t in transcripts) - sum(known)
    return PromptCounts(max(0, prompt_tokens - computed))


def figures_of(prompt_tokens: int, transcripts: Sequence[Transcript]) -> dict[str, int | float]:
    """The same for a trace, under the names of OpenTelemetry's conventions where it has one; times are in seconds."""
    figures: dict[str, int | float] = {
        "gen_ai.usage.input_tokens": prompt_tokens,
        "gen_ai.usage.output_tokens": sum(t.tokens for t in transcripts),
        "nimble.accepted_draft_tokens": sum(t.accepted_draft_tokens for t in transcripts),
    }
    first = [t.first_token - t.started for t in transcripts if t.first_token is not None]
    return {**figures, "nimble.time_to_first_token": min(first)} if first else figures
