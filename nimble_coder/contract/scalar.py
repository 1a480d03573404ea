"""How one number of a request is declared: what it is called on the way, what it may be, and what changes nothing."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from nimble_coder.contract.bounds import Bounds


class Effect(Enum):
    """What a number does to the choice of a token."""

    LOGITS = "adds to logits or divides them, and so changes the greedy choice as well"
    CUT = "leaves the less likely tokens out, and so changes nothing where the most likely one is chosen"


@dataclass(frozen=True)
class Scalar:
    """One number of a request that says how tokens are chosen, or what is told of them."""

    name: str
    """Of the tensor or the parameter."""
    datatype: str | None
    """Triton's of the tensor; None for a parameter, which is a float there."""
    neutral: float
    """What changes nothing, and need not be sent."""
    bounds: Bounds
    effect: Effect | None
    api: str
    """Whose API calls the number as its attribute is called; empty where the gateway's table of fields says it."""
    example: float | None
    """A value that asks for something, for that API."""


def tensor(
    name: str, datatype: str, neutral: float, bounds: Bounds, effect: Effect | None = None, api: str = "",
    example: float | None = None,
) -> Any:  # fmt: skip
    """The default of an attribute that travels as NVIDIA's tensor, `[B, 1]`."""
    row = Scalar(name, datatype, neutral, bounds, effect, api, example)
    return field(default=neutral, metadata={Scalar: row})


def parameter(
    name: str, neutral: float, bounds: Bounds, effect: Effect | None = None, api: str = "",
    example: float | None = None,
) -> Any:  # fmt: skip
    """The default of an attribute that NVIDIA has no tensor for: a request parameter, for the portable engine alone."""
    row = Scalar(name, None, neutral, bounds, effect, api, example)
    return field(default=neutral, metadata={Scalar: row})
