"""What is written under a schema with bounds of numbers lies within them."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from nimble_coder.contract.request import Guide, GuideType
from nimble_coder.engine.form import grammar_of
from nimble_coder.engine.schema_numbers import LARGEST_INTEGER

BYTES = LLTokenizer("byte")
DIGITS = st.integers(0, 3)
BOUNDS = st.builds(lambda number, places: Decimal(number).scaleb(-places), st.integers(-1500, 1500), DIGITS)
LEAST, LARGEST = st.sampled_from(["minimum", "exclusiveMinimum"]), st.sampled_from(["maximum", "exclusiveMaximum"])


class Written:
    """The texts that a schema allows."""

    def __init__(self, schema: Any, lark: bool = False) -> None:
        text = json.dumps(schema)
        guide = Guide(GuideType.LARK, f"start: %json {text}") if lark else Guide(GuideType.JSON_SCHEMA, text)
        self._matcher = LLMatcher(BYTES, grammar_of(guide, {}), log_level=0)
        self.is_possible = not self._matcher.is_error()

    def __contains__(self, text: str) -> bool:
        matcher, tokens = self._matcher.deep_copy(), list(text.encode())
        return matcher.consume_tokens(tokens) and matcher.is_accepting()


def as_number(value: Decimal) -> float:
    return int(value) if value == int(value) else float(value)


def around(value: Decimal) -> set[Decimal]:
    return {value + sign * Decimal(1).scaleb(-places) for places in range(5) for sign in (-1, 0, 1)}


@settings(max_examples=50)
@given(BOUNDS, st.one_of(BOUNDS, st.none()), st.integers(1, 99), DIGITS, LEAST, LARGEST)
def test_every_number_around_random_bounds(
    low: Decimal, high: Decimal | None, width: int, places: int, least: str, largest: str
) -> None:
    high = low + Decimal(width).scaleb(-places) if high is None else high  # near each other, or wherever
    written = Written({"type": "number", least: as_number(low), largest: as_number(high)})
    for value in around(low) | around(high):
        is_within = (low < value or (low == value and least == "minimum")) and (
            value < high or (value == high and largest == "maximum")
        )
        shortest = f"{value.normalize():f}"
        if not is_within:
            texts = (f"{value:f}", shortest, "-0" if value == 0 else f"{value:.5f}")
            assert not [text for text in texts if written.is_possible and text in written]
        elif "." not in shortest or not any(f"{bound:f}".startswith(shortest) for bound in (low, high)):
            assert shortest in written  # llguidance writes a beginning of a bound with zeros alone: 0.20 below 0.25


NARROW = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001}


@pytest.mark.parametrize(
    ("schema", "written", "not_written"),
    [
        (NARROW, ["0.0001"], ["0", "0.0", "0.001"]),
        ({"type": "number", "exclusiveMinimum": 2, "exclusiveMaximum": 2.001}, ["2.0005"], ["2", "2.0", "2.001"]),
        ({"type": "number", "exclusiveMinimum": -0.001, "exclusiveMaximum": 0}, ["-0.0005"], ["-0", "-0.0", "0"]),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 0.5}, ["0.25", "0.5"], ["0"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5, "multipleOf": 0.1}, ["0.1"], ["0"]),
        ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3}, ["1", "2"], ["0", "3", "-1"]),
        ({"type": "number", "exclusiveMaximum": 1}, ["0.9", "0.99", "0.999"], ["1", "1.0"]),
        ({"type": "number", "exclusiveMaximum": 360}, ["359.9"], ["360"]),
        ({"type": "number", "exclusiveMaximum": 0.5}, ["0.4", "0.49"], ["0.5"]),
        ({"type": "number", "exclusiveMinimum": -1}, ["-0.9", "-0.999"], ["-1"]),
        ({"type": "number", "minimum": 0, "maximum": 1, "exclusiveMaximum": True}, ["0", "0.9"], ["1"]),
        ({"type": "integer", "exclusiveMinimum": 2**52 - 1}, [str(2**52)], [str(2**52 - 1)]),
        ({"type": "integer", "exclusiveMinimum": 2**53}, [str(2**53 + 2)], [str(2**53)]),
        ({"type": "integer", "exclusiveMinimum": 10**17}, [str(10**17 + 16)], [str(10**17)]),
        ({"type": "integer", "exclusiveMaximum": 2**53}, [str(2**53 - 1)], [str(2**53)]),
        ({"type": "integer", "exclusiveMaximum": 1 - 2**53}, [str(-(2**53))], [str(1 - 2**53)]),
        ({"type": "integer", "minimum": 2**53 + 1}, [str(2**53 + 2)], [str(2**53)]),
        ({"type": "integer", "maximum": 2**60 + 127}, [str(2**60)], [str(2**60 + 128)]),
        ({"type": "integer", "maximum": LARGEST_INTEGER}, [str(LARGEST_INTEGER)], [str(LARGEST_INTEGER + 1)]),
        ({"allOf": [{"type": "number", "exclusiveMinimum": 0}, {"maximum": 0.5}]}, ["0.5"], ["0"]),
        ({"$ref": "#/$defs/enum", "maximum": 0.5, "$defs": {"enum": NARROW}}, ["0.0001"], ["0"]),
        ({"anyOf": [NARROW, {"type": "null"}]}, ["0.0001", "null"], ["0"]),
        ({"type": "array", "items": NARROW}, ["[0.0001]"], ["[0]"]),
        ({"properties": {"const": NARROW}, "required": ["const"]}, ['{"const": 0.0001}'], ['{"const": 0}']),
        ({"properties": {"minimum": NARROW, "maximum": {"enum": [0.5]}}}, ['{"minimum": 0.0001}'], ['{"minimum": 0}']),
        ({"const": {"exclusiveMinimum": 1}}, ['{"exclusiveMinimum": 1}'], ['{"minimum": 1}']),
    ],
)
def test_bounds_that_exclude_are_held_wherever_they_stand(
    schema: dict[str, Any], written: list[str], not_written: list[str]
) -> None:
    for allowed in (
        Written(schema),
        Written({"x-guidance": {"item_separator": ", ", "key_separator": ": "}, **schema}, True),
    ):
        assert [text in allowed for text in written] == [True] * len(written)
        assert [text in allowed for text in not_written] == [False] * len(not_written)
