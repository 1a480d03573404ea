"""Build profiles: everything about an engine that a person may choose, under one name."""

from dataclasses import dataclass
from typing import Literal

from build_engine.lookahead import LookaheadConfig

Precision = Literal["fp32", "bf16", "fp16"]
EngineKind = Literal["torch"]

EMBEDDED = "embedded"
"""The `model` of a profile that is built from the checkpoint shipped with this package."""


class ProfileError(ValueError):
    """A profile that cannot be built as asked; says what to change."""


@dataclass(frozen=True)
class Profile:
    """One way to build one model. Lengths are in tokens; `max_seq_len` bounds prompt plus output."""

    name: str
    model: str
    engine: EngineKind
    precision: Precision
    lookahead: LookaheadConfig
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        if self.lookahead.is_plain:
            raise ProfileError("an engine needs draft tokens: (2,2,1) is the smallest lookahead that has any")
        if min(self.max_batch_size, self.max_input_len, self.max_num_tokens) < 1:
            raise ProfileError("max_batch_size, max_input_len and max_num_tokens must be at least 1")
        if self.max_input_len >= self.max_seq_len:
            raise ProfileError(
                f"max_input_len {self.max_input_len} leaves no room for output: "
                f"make max_seq_len ({self.max_seq_len}) larger"
            )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="demo",
            model=EMBEDDED,
            engine="torch",
            precision="fp32",
            lookahead=LookaheadConfig(8, 8, 8),
            max_batch_size=32,
            max_input_len=6144,
            max_seq_len=8192,
            max_num_tokens=512,
        ),
    )
}


def find_profile(name: str) -> Profile:
    """The profile of that name; raises `ProfileError` that lists the known ones."""
    try:
        return PROFILES[name]
    except KeyError:
        raise ProfileError(f"there is no profile {name!r}; known profiles: {', '.join(sorted(PROFILES))}") from None
