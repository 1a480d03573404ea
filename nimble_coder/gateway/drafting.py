"""What drafts the tokens of a request, with which (w,n,g), and how an answer tells it."""

from dataclasses import astuple

from build_engine.artifact import PLAIN_MODEL
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.profiles import Profile
from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.contract.encoding import Generation
from nimble_coder.gateway.access.limits import Admission, EngineLimits
from nimble_coder.gateway.exchange import Headers
from nimble_coder.gateway.policy import Policy
from nimble_coder.gateway.requests.schemas.sampling import SamplingFields

SUFFIXES = "suffixes"
"""The drafter of the portable engine on CPUs."""


class Drafting:
    """Chooses for every request of a process: what it asks for, else by load (the policy), else the engine's own."""

    def __init__(self, profile: Profile, limits: EngineLimits, policy: Policy | None, admission: Admission) -> None:
        self._profile, self._limits, self._policy, self._admission = profile, limits, policy, admission
        self.usual = SUFFIXES
        """The portable engine's, for requests that name none; it depends on the device that the engine has found."""

    def lookahead(self, asked: SamplingFields, prompt_length: int, joining: int) -> LookaheadConfig | None:
        """The (w,n,g) of a request's `joining` generations; raises `ApiError` for one beyond the engine's."""
        if asked.drafting:
            return self._limits.choose_lookahead(asked.asked_lookahead, prompt_length)
        return self.choose_lookahead(asked.asked_lookahead, prompt_length, joining)

    def choose_lookahead(
        self, asked: LookaheadConfig | None, prompt_length: int, joining: int
    ) -> LookaheadConfig | None:
        """The (w,n,g) of `joining` generations that join those in flight: what was asked for, else the policy's choice;
        None leaves the engine its own. Raises `ApiError` for one beyond the engine's."""
        if asked is None and self._policy:
            return self._policy.choose(self._admission.active + joining, prompt_length)
        if asked is None and self._profile.matches_suffixes:
            return None
        return self._limits.choose_lookahead(asked, prompt_length)

    def draft_tokens(self, asked: SamplingFields, lookahead: LookaheadConfig | None) -> int | None:
        """The most draft tokens per step by matching suffixes; None where a request is not drafted for in that way."""
        if not self._profile.is_portable or asked.drafting == "lookahead":
            return None
        if asked.draft_tokens is not None:
            return asked.draft_tokens
        return MOST_DRAFTS if asked.drafting or (lookahead is None and self._profile.matches_suffixes) else None

    def headers(self, asked: SamplingFields, generation: Generation) -> Headers:
        """Which drafter an answer has, and its bounds: a policy may have chosen the (w,n,g)."""
        lookahead = PLAIN if generation.model == PLAIN_MODEL else generation.lookahead or self._limits.lookahead
        suffixes = self.draft_tokens(asked, generation.lookahead)
        config = PLAIN if suffixes is not None else lookahead
        usual = self.usual if suffixes == MOST_DRAFTS else SUFFIXES  # with fewer there is no room for a window
        named = (asked.drafting or usual).encode()
        return [
            (b"x-nimble-drafting", named if suffixes else b"none" if config.is_plain else b"lookahead"),
            (b"x-nimble-lookahead", ",".join(map(str, astuple(config))).encode()),
            *([] if suffixes is None else [(b"x-nimble-draft-tokens", b"%d" % suffixes)]),
        ]
