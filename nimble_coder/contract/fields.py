"""The fields of a request that are one number each: what they are called on the way, and what changes nothing.

Tensors are NVIDIA's, `[B, 1]`: all_models/inflight_batcher_llm/tensorrt_llm of tensorrtllm_backend v0.19.0. What it has
no tensor for is a request parameter, which the portable engine alone reads. Bounds are those of `Sampling`.
"""

from dataclasses import astuple, dataclass

from build_engine.lookahead import LookaheadConfig

LOOKAHEAD = ("lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size")
"""(w, n, g) of a request, each INT32."""


@dataclass(frozen=True)
class Scalar:
    """One number of a request that says how tokens are chosen."""

    attribute: str
    """Of `Sampling`."""
    name: str
    """Of the tensor or the parameter."""
    datatype: str | None
    """Triton's of the tensor; None for a parameter, which is a float there."""
    neutral: float
    """What changes nothing, and need not be sent."""


SCALARS = {
    scalar.attribute: scalar
    for scalar in (
        Scalar("temperature", "temperature", "FP32", 1.0),
        Scalar("top_k", "runtime_top_k", "INT32", 0),
        Scalar("top_p", "runtime_top_p", "FP32", 1.0),
        Scalar("repetition_penalty", "repetition_penalty", "FP32", 1.0),
        Scalar("presence_penalty", "presence_penalty", "FP32", 0.0),
        Scalar("frequency_penalty", "frequency_penalty", "FP32", 0.0),
        Scalar("min_tokens", "min_length", "INT32", 0),
        Scalar("log_probs", "return_log_probs", "BOOL", False),
        Scalar("min_p", "min_p", None, 0.0),
        Scalar("top_log_probs", "top_logprobs", None, 0),
        Scalar("prompt_log_probs", "prompt_logprobs", None, False),
    )
}
OTHERWISE_READ = ("temperature", "top_k", "top_p")
"""These mean something together (`decoding.py`)."""


def lookahead_values(lookahead: LookaheadConfig) -> list[tuple[str, int]]:
    """The three inputs by name."""
    return list(zip(LOOKAHEAD, astuple(lookahead), strict=True))
