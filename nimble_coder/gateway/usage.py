"""What a request consumed, in OpenAI's `usage` object."""

from collections.abc import Sequence

from nimble_coder.gateway.transcript import Transcript

Usage = dict[str, object]


def usage_of(prompt_tokens: int, transcripts: Sequence[Transcript]) -> Usage:
    """Accepted and rejected drafts stand where OpenAI reports those of predicted outputs; they are whole once the
    engine has sent its last response, which a stop string may forestall."""
    completion = sum(t.tokens for t in transcripts)
    accepted = sum(t.accepted_draft_tokens for t in transcripts)
    rejected = sum(t.draft_tokens for t in transcripts) - accepted
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
        "completion_tokens_details": {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": rejected,
        },
    }
