"""The numbers in a JSON Schema: told to llguidance so that it holds an answer to them, or refused."""

import math
from typing import Any

from nimble_coder.engine.schema_parts import DATA, NAMES, VALUES, schemas_in

LEAST_INTEGER = -9_000_000_000_000_000_000
"""For 108 integers from the least one of 64 bits on, llguidance 1.9.1 overflows the stack, which ends the process."""
LARGEST_INTEGER = 2**63 - 1
LIMITS = (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1))
"""Keywords, and the sign of the way that a number may go from them."""
NEXT_TO_ZERO = 1e-30
"""The least number beside an exclusive 0: llguidance nests a group for each of its digits, 250 at most."""
FIRST_GAP = 2**53
"""Floats of 64 bits have every integer up to this one, and no fractions from half of it on."""


def check_integers(part: Any, has_names: bool = False) -> None:
    """Raises ValueError for integers that llguidance cannot write, in a const or an enum, and for largest ones that are
    too small for it. It reads every number as a float of 64 bits."""
    if isinstance(part, dict) and not has_names:
        for name, each in part.items():
            if name in ("maximum", "exclusiveMaximum") and isinstance(each, int | float) and each < LEAST_INTEGER:
                raise ValueError(f"{name} is {each}, and what is less than -9*10^18 cannot be held to")
            if name in VALUES:
                check_value(each)
    for each, are_names in schemas_in(part, has_names):
        check_integers(each, are_names)


def check_value(value: Any) -> None:
    """Raises ValueError for integers in a value that llguidance cannot write."""
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        check_value(each)
    if not isinstance(value, int | float):
        return
    if value < LEAST_INTEGER or (isinstance(value, int) and value > LARGEST_INTEGER):
        raise ValueError(f"{str(value)[:40]} cannot be held to: send integers from -9*10^18 up to 2^63-1")
    if isinstance(value, int) and float(value) != value:
        raise ValueError(f"{value} cannot be held to: send integers that a float of 64 bits can hold, or strings")


def with_told_bounds(part: Any, has_names: bool = False) -> Any:
    """A schema whose bounds llguidance 1.9.1 holds to as they are meant.

    Where two bounds have the same integer part, it takes the exclusive one nearer to 0 for inclusive if that is an
    integer: it writes 0 for above 0 and below 0.5 (`rx_float_range` in its `parser/src/json/numeric.rs`). It joins the
    bounds of several parts, so every such bound becomes an inclusive one beside it, and so does one beyond 2^53, where
    it adds 1 to a float in vain. No other does: of 0.999...9 it would not write a beginning, as 0.9, where of 1.000...1
    all beginnings are 1.
    """
    if isinstance(part, list):
        return [with_told_bounds(each) for each in part]
    if not isinstance(part, dict):
        return part
    if has_names:
        return {name: with_told_bounds(each) for name, each in part.items()}
    told = {name: part[name] if name in DATA else with_told_bounds(part[name], name in NAMES) for name in part}
    for inclusive, exclusive, sign in LIMITS:
        given = [float_within(bound, sign) for bound in numbers(part, inclusive)]
        # In draft 4, the exclusive one is a boolean.
        for bound in numbers(part, inclusive if part.get(exclusive) is True else exclusive):
            if float(bound).is_integer() and (bound * sign >= 0 or abs(bound) >= FIRST_GAP):
                del told[exclusive]
                given.append(next_to(int(bound), sign))
        if given:
            told[inclusive] = max(given, key=lambda bound: bound * sign)
    return told


def numbers(part: dict[str, Any], name: str) -> list[float]:
    """The number that a keyword has, if it has one."""
    value = part.get(name)
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def next_to(bound: int, sign: int) -> float:
    """A number near a bound that is no part of what it bounds, the next integer at most: some floats away, since
    llguidance reads the last digits of one inexactly."""
    if abs(bound) >= FIRST_GAP:
        return float_within(bound + sign, sign)
    return bound + sign * min(math.ldexp(abs(bound), -50) or NEXT_TO_ZERO, 1)


def float_within(bound: float, sign: int) -> float:
    """A bound itself, or the next number that a float of 64 bits has, which is what llguidance reads."""
    is_beyond = float(bound) < bound if sign > 0 else LARGEST_INTEGER > bound < float(bound)
    return int(math.nextafter(bound, sign * math.inf)) if is_beyond else bound
