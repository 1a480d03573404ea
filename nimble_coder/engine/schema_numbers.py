"""The numbers in a JSON Schema: told to llguidance so that it holds an answer to them, or refused."""

import math
from typing import Any

LEAST_INTEGER = -9_000_000_000_000_000_000
"""For 108 integers from the least one of 64 bits on, llguidance 1.9.1 overflows the stack, which ends the process."""
LARGEST_INTEGER = 2**63 - 1
VALUES = ("const", "enum")
NAMING = ("properties", "patternProperties", "$defs", "definitions")
"""In these, keys are names and no keywords."""
LIMITS = (("minimum", "exclusiveMinimum", math.inf), ("maximum", "exclusiveMaximum", -math.inf))
"""Keywords, and whither a number may go from them."""
NEXT_TO_ZERO = 1e-30
"""The least number beside an exclusive 0: llguidance nests a group for each of its digits, 250 at most."""


def check_integers(part: Any, is_value: bool = False) -> None:
    """Raises ValueError for integers that llguidance cannot write, in what `is_value` or in a const or an enum, and for
    largest ones that are too small for it. It reads every number as a float of 64 bits."""
    is_too_large = isinstance(part, int) and part > LARGEST_INTEGER
    if is_value and (is_too_large or (isinstance(part, int | float) and part < LEAST_INTEGER)):
        raise ValueError(f"{str(part)[:40]} cannot be held to: send integers from -9*10^18 up to 2^63-1")
    if is_value and isinstance(part, int) and float(part) != part:
        raise ValueError(f"{part} cannot be held to: send integers that a float of 64 bits can hold, or strings")
    if isinstance(part, list):
        for each in part:
            check_integers(each, is_value)
    elif isinstance(part, dict):
        for name, each in part.items():
            if name in ("maximum", "exclusiveMaximum") and isinstance(each, int | float) and each < LEAST_INTEGER:
                raise ValueError(f"{name} is {each}, and what is less than -9*10^18 cannot be held to")
            check_integers(each, is_value or name in VALUES)


def with_inclusive_bounds(part: Any, has_names: bool = False) -> Any:
    """A schema without exclusive bounds that allows the same numbers, but for some right beside them.

    Where no integer lies between two bounds, llguidance 1.9.1 takes an exclusive one that is an integer for inclusive:
    it writes 0 for above 0 and below 0.5 (`rx_float_range` in its `parser/src/json/numeric.rs`). It joins the bounds of
    several parts, so all are replaced.
    """
    if isinstance(part, list):
        return [with_inclusive_bounds(each) for each in part]
    if not isinstance(part, dict):
        return part
    if has_names:
        return {name: with_inclusive_bounds(each) for name, each in part.items()}
    told = {name: part[name] if name in VALUES else with_inclusive_bounds(part[name], name in NAMING) for name in part}
    for inclusive, exclusive, away in LIMITS:
        given = [float_within(bound, away) for bound in numbers(part, inclusive)]
        # In draft 4, the exclusive one is a boolean.
        for bound in numbers(part, inclusive if part.get(exclusive) is True else exclusive):
            del told[exclusive]
            given.append(next_to(bound, away))
        if given:
            told[inclusive] = max(given) if away > 0 else min(given)
    return told


def numbers(part: dict[str, Any], name: str) -> list[float]:
    """The number that a keyword has, if it has one."""
    value = part.get(name)
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def next_to(bound: float, away: float) -> float:
    """A number near a bound that is no part of what it bounds: some floats away, since llguidance reads the last digits
    of one inexactly."""
    return bound + math.copysign(math.ldexp(abs(bound), -50) or NEXT_TO_ZERO, away)


def float_within(bound: float, away: float) -> float:
    """A bound itself, or the next number that a float of 64 bits has, which is what llguidance reads."""
    is_beyond = float(bound) < bound if away > 0 else LARGEST_INTEGER > bound < float(bound)
    return int(math.nextafter(bound, away)) if is_beyond else bound
