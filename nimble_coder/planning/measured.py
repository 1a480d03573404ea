"""What one pod does, from the JSON of `nimble-coder bench --json`."""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from build_engine.exit_codes import ExitCode

Curve = Mapping[int, float]
"""Seconds by the requests at once."""


class PlanError(ValueError):
    """A load, a mix or a file of measurements that no plan can be made of."""

    exit_code = ExitCode.ASKED


@dataclass(frozen=True)
class Kind:
    """One kind of request as it was measured alone on a pod, at several levels of load."""

    name: str
    answer_tokens: float
    first: Curve = field(hash=False)
    """Time to first token, the median."""
    between: Curve = field(hash=False)
    """Inter-token latency, the median."""
    spread: float = 0.0
    """How requests of this kind differ (their prompts' lengths, say): the standard deviation of the logarithm of a lone
    request's time to first token."""

    def seconds(self, at_once: int = 1) -> float:
        """Of a whole answer of the median prompt, with so many on the pod."""
        return at(self.first, at_once) + (self.answer_tokens - 1) * at(self.between, at_once)


def at(curve: Curve, at_once: int) -> float:
    """Between two levels that were measured on a straight line; beyond the last in proportion, as a full pod has it."""
    levels = sorted(curve)
    if at_once >= levels[-1]:
        return curve[levels[-1]] * at_once / levels[-1]
    place = bisect_left(levels, at_once)
    if place == 0:
        return curve[levels[0]]
    low, high = levels[place - 1], levels[place]
    return curve[low] + (curve[high] - curve[low]) * (at_once - low) / (high - low)


def read_kinds(file: Path) -> dict[str, Kind]:
    """By the scenario's name; raises `PlanError`."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["results"]
        by_name: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_name.setdefault(str(row["scenario"]), []).append(row)
        if not by_name:
            raise PlanError(f"{file} has no results: nothing was measured")
        return {name: _kind(name, found) for name, found in by_name.items()}
    except OSError as error:
        raise PlanError(f"{file} cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(
            f"{file} is not what `nimble-coder bench --concurrency 1 2 4 8 --json FILE` writes ({error!r})"
        ) from None


def spread(ttft: Mapping[str, float]) -> float:
    """Of a log-normal distribution with these `p50` and `p90`, in any unit; 1.2816 is the normal distribution's 90th
    percentile."""
    return max(0.0, math.log(ttft["p90"] / ttft["p50"]) / 1.2816)


def _kind(name: str, rows: list[dict[str, Any]]) -> Kind:
    first: dict[int, float] = {}
    between: dict[int, float] = {}
    for row in rows:
        level, ttft, itl = row["concurrency"], row["ttft_ms"], row["itl_ms"]
        if row["requests"] == row["errors"]:
            raise PlanError(f"every request of {name} at {level} at once failed: measure it again")
        if type(level) is not int or level < 1:
            raise ValueError(f"concurrency {level!r}")
        for told in (ttft["p50"], ttft["p90"], itl["p50"], row["tokens"]):
            if not 0 <= told < math.inf:
                raise ValueError(f"a measurement of {told!r}")
        if level in first:
            raise PlanError(f"{name} was measured with several draftings at {level} at once: measure one")
        first[level], between[level] = ttft["p50"] / 1000, itl["p50"] / 1000
    tokens = [row["tokens"] / (row["requests"] - row["errors"]) for row in rows]
    alone = min(rows, key=lambda row: int(row["concurrency"]))
    return Kind(name, sum(tokens) / len(tokens), first, between, spread(alone["ttft_ms"]))
