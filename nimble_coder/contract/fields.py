"""The fields of a request that are numbers, by attribute.

Tensors are NVIDIA's, `[B, 1]`: all_models/inflight_batcher_llm/tensorrt_llm of tensorrtllm_backend v0.19.0. What it has
no tensor for is a request parameter, which the portable engine alone reads. `Sampling` declares each of them.
"""

from dataclasses import astuple, fields

from build_engine.lookahead import LookaheadConfig
from nimble_coder.contract.request import Sampling
from nimble_coder.contract.scalar import Effect, Scalar

LOOKAHEAD = ("lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size")
"""(w, n, g) of a request, each INT32."""
DRAFT_TOKENS, DRAFTING, DRAFT_POOL, OWNER = "draft_tokens", "drafting", "draft_pool", "owner"
"""Request parameters of the portable engine: `Request`'s fields of the same names."""
CALL = "call"
"""The request parameter that is the gateway's name for a request, which no other has: it ends the request by it."""
SCALARS: dict[str, Scalar] = {each.name: each.metadata[Scalar] for each in fields(Sampling) if Scalar in each.metadata}
EMPTY_FINAL, FINAL = "triton_enable_empty_final_response", "triton_final_response"
"""Triton's parameters that ask for a mark of a request's last response, and that are this mark."""
OF_TOKENS = ("top_logprobs", "prompt_logprobs")
"""Request parameters that ask for something of single tokens."""
PARAMETERS = ("logit_bias", DRAFT_TOKENS, DRAFTING, *(s.name for s in SCALARS.values() if s.datatype is None))
"""All that a client may send."""
OTHERWISE_READ = ("temperature", "top_k", "top_p")
"""These mean something together (`decoding.py`)."""
NO_CUT = {name: scalar.neutral for name, scalar in SCALARS.items() if scalar.effect is Effect.CUT}
"""What every cut is where all tokens may be drawn."""


def lookahead_values(lookahead: LookaheadConfig) -> list[tuple[str, int]]:
    """The three inputs by name."""
    return list(zip(LOOKAHEAD, astuple(lookahead), strict=True))
