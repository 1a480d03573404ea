"""Which requests an engine takes."""

from dataclasses import dataclass

from build_engine.lookahead import LookaheadConfig, LookaheadError, portable_limit
from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.contract.request import Request, RequestError, Sampling
from nimble_coder.engine.drafter import DRAFTERS, LOOKAHEAD


@dataclass(frozen=True)
class Admission:
    """Refuses what the engine cannot run, before anything of it is kept."""

    lookahead: LookaheadConfig
    """The engine's own (W, N, G)."""
    vocab_size: int
    longest_prompt: int
    max_seq_len: int

    def admit(self, request: Request) -> LookaheadConfig | None:
        """Raises `RequestError` for what cannot run; returns the request's (w, n, g), None where it has none."""
        length, vocab = len(request.input_ids), self.vocab_size
        if not length:
            raise RequestError("the prompt is empty: send at least one token in input_ids")
        if length > self.longest_prompt:
            raise RequestError(
                f"Prompt length ({length}) exceeds maximum input length ({self.longest_prompt}): shorten the "
                f"prompt, or build an engine with a larger max_input_len"
            )
        if request.max_tokens < 1:
            raise RequestError(f"request_output_len is {request.max_tokens}: ask for at least 1 token")
        if outside := [i for i in request.input_ids if not 0 <= i < vocab]:
            raise RequestError(f"input_ids holds {outside[0]}, which is not a token: ids go from 0 to {vocab - 1}")
        if request.sampling:
            self._check_sampling(request.sampling, request)
        if request.draft_tokens is not None and not 0 <= request.draft_tokens <= MOST_DRAFTS:
            raise RequestError(f"draft_tokens is {request.draft_tokens}, out of range: send 0 to {MOST_DRAFTS}")
        if request.drafting and request.drafting not in DRAFTERS:
            raise RequestError(f"drafting is {request.drafting!r}: send one of {', '.join(DRAFTERS)}")
        if request.draft_tokens is not None and request.drafting != LOOKAHEAD:
            return None
        # A request that says nothing is drafted for by matching suffixes (docs/tuning.md).
        if request.lookahead is None:
            return self.lookahead if request.drafting == LOOKAHEAD or self.lookahead.is_plain else None
        try:
            request.lookahead.check_within(portable_limit(self.lookahead))
        except LookaheadError as error:
            raise RequestError(str(error)) from None
        if length < request.lookahead.ngram_size - 1:
            # Not a limit of this engine: TensorRT-LLM 0.19 reads out of bounds there, and both keep one contract.
            raise RequestError(
                f"the prompt has {length} tokens, lookahead {request.lookahead} needs at least "
                f"{request.lookahead.ngram_size - 1} (N - 1): send a smaller n, or (1,1,0) for plain decoding"
            )
        return request.lookahead

    def _check_sampling(self, sampling: Sampling, request: Request) -> None:
        """Raises `RequestError` for tokens that have no logit to forbid, and for too many of them."""
        vocab = self.vocab_size
        tokens = [("bad_words_list", i) for word in sampling.bad_words for i in word]
        tokens += [("logit_bias", i) for i, _ in sampling.logit_bias]
        if sampling.min_tokens:
            self._check_least(sampling.min_tokens, request)
            tokens += [("end_id" if i == request.end_id else "stop_words_list", i) for i in request.ends]
        for name, token in tokens:
            if not 0 <= token < vocab:
                raise RequestError(f"{name} has {token}, which is out of range: token ids go from 0 to {vocab - 1}")

    def _check_least(self, least: int, request: Request) -> None:
        """Raises `RequestError` for more tokens than an answer may have, or than fit, where `request_output_len` is
        cut."""
        if least > request.max_tokens:
            raise RequestError(
                f"min_length is {least}, above request_output_len, which is {request.max_tokens}: send less"
            )
        room = self.max_seq_len - len(request.input_ids)
        if least > room:
            raise RequestError(
                f"min_length is {least}, and {room} tokens fit behind the prompt of the request: send less"
            )
