"""Lookahead decoding's configuration (W, N, G) and what follows from it; used by both stages.

Formulas: LookaheadDecodingConfig of TensorRT-LLM (cpp/tensorrt_llm/executor/decodingConfig.cpp).
"""

from dataclasses import astuple, dataclass

from build_engine.exit_codes import ExitCode


class LookaheadError(ValueError):
    """A (W, N, G) that is not legal, or not allowed where it was given."""

    exit_code = ExitCode.ASKED


@dataclass(frozen=True)
class LookaheadConfig:
    """Window size W, n-gram size N and verification set size G of lookahead decoding.

    Raises `LookaheadError` for an illegal combination: N >= 1, W >= 1, G >= 0, and N = 1 (plain autoregressive
    decoding) needs W = 1 and G = 0.
    """

    window_size: int
    ngram_size: int
    verification_set_size: int

    def __post_init__(self) -> None:
        if self.window_size < 1 or self.ngram_size < 1 or self.verification_set_size < 0:
            raise LookaheadError(f"lookahead {self} is not legal: it needs W >= 1, N >= 1 and G >= 0")
        if self.ngram_size == 1 and (self.window_size, self.verification_set_size) != (1, 0):
            raise LookaheadError(f"lookahead {self} is not legal: N = 1 needs W = 1 and G = 0, that is (1,1,0)")

    @classmethod
    def parse(cls, text: str) -> "LookaheadConfig":
        """Reads `W,N,G`, for example `8,8,8`; raises `LookaheadError` for anything else."""
        try:
            w, n, g = (int(part) for part in text.strip("() ").split(","))
        except ValueError:
            raise LookaheadError(f"lookahead {text!r} is not three whole numbers W,N,G such as 8,8,8") from None
        return cls(w, n, g)

    @property
    def max_draft_tokens(self) -> int:
        """D: the most draft tokens that one step verifies; an engine's `max_draft_len` equals it."""
        w, n, g = self.window_size, self.ngram_size, self.verification_set_size
        return (0 if n == 1 else n - 2) + (w - 1 + g) * (n - 1)

    @property
    def tokens_per_step(self) -> int:
        """D + 1: the most tokens that one decoding step computes for one request."""
        return self.max_draft_tokens + 1

    @property
    def is_plain(self) -> bool:
        """True where no draft token is ever sent: autoregressive decoding."""
        return self.max_draft_tokens == 0

    @property
    def label(self) -> str:
        """As the names of profiles have it: `w8n8g8`."""
        return f"w{self.window_size}n{self.ngram_size}g{self.verification_set_size}"

    def check_within(self, engine: "LookaheadConfig") -> None:
        """Raises `LookaheadError` unless w <= W, n <= N and g <= G of the engine."""
        if any(mine > limit for mine, limit in zip(astuple(self), astuple(engine), strict=True)):
            raise LookaheadError(
                f"lookahead {self} exceeds the engine's {engine}: each of w, n, g must be at most W, N, G; "
                f"send smaller values, or build an engine with a larger configuration"
            )

    def limited_to(self, engine: "LookaheadConfig") -> "LookaheadConfig":
        """The same, each of w, n, g at most the engine's."""
        w, n, g = map(min, astuple(self), astuple(engine))
        return LookaheadConfig(w, n, g) if n > 1 else PLAIN

    def __str__(self) -> str:
        return f"({self.window_size},{self.ngram_size},{self.verification_set_size})"


PLAIN = LookaheadConfig(1, 1, 0)
Mode = LookaheadConfig | None
"""(w,n,g) of a request, or what the engine does by itself."""


def label(mode: Mode) -> str:
    """For people."""
    return "own" if mode is None else str(mode)


SMALL = (LookaheadConfig(1, 4, 1), LookaheadConfig(1, 3, 1), LookaheadConfig(1, 2, 1))
"""What a CPU bears, the most draft tokens first: 5, 3 and 1 (docs/tuning.md)."""
PORTABLE_LEAST = LookaheadConfig(8, 8, 8)


def portable_limit(own: LookaheadConfig) -> LookaheadConfig:
    """Up to which (w, n, g) a request may ask a portable engine built for `own`: nothing is compiled into it, so at
    least up to NVIDIA's published configuration."""
    pairs = zip(astuple(own), astuple(PORTABLE_LEAST), strict=True)
    return LookaheadConfig(*(max(pair) for pair in pairs))
