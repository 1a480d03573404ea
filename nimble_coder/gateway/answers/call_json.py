"""A call as JSON: its beginning, its end where that is missing, and what is one at all."""

import ast
import json
import re
from typing import Any

from nimble_coder.gateway.answers.bodies.chat import CalledFunction

FENCE = "```"
CLOSINGS = ("]", "</tool_call>", "</tools>")
DECODER = json.JSONDecoder(strict=False)
ARGUMENT_KEYS = ("arguments", "parameters")
HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*')
ARGUMENTS = re.compile(rf',\s*"(?:{"|".join(ARGUMENT_KEYS)})"\s*:\s*')
BEHIND = (FENCE, *CLOSINGS)
"""What may stand behind a call that lacks its last brace, besides the end."""
LONGEST_CUT = 12
"""The most that a text may end with of a literal or an escape that is not complete: of a pair of surrogates."""


def may_go_on(error: Exception, text: str) -> bool:
    """Whether more text could mend it: what JSON's decoder stumbled over is at the end."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos + LONGEST_CUT > len(text)


def called(text: str, start: int) -> tuple[str, int] | None:
    """The name that JSON begins with, as a call does, and where what follows the name begins."""
    head = HEAD.match(text, start)
    try:
        return (DECODER.decode(head[1]), head.end()) if head else None
    except ValueError:
        return None  # an escape that JSON has not


def unclosed(text: str, start: int, names: frozenset[str]) -> tuple[dict[str, Any], int] | None:
    """A call of an offered function that lacks nothing but its last brace, as a limit leaves it and small models write
    it, and where it ends."""
    name, place = called(text, start) or ("", start)
    arguments = ARGUMENTS.match(text, place) if name in names else None
    if not arguments:
        return None
    try:
        value, end = DECODER.raw_decode(text, arguments.end())
    except (ValueError, RecursionError):
        return None
    while end < len(text) and text[end].isspace():
        end += 1
    is_all = end == len(text) or text.startswith(BEHIND, end)
    return ({"name": name, "arguments": value}, end) if is_all else None


def read_python(text: str) -> Any:
    """The value of a Python literal; None where it is none."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def has_exact_shape(value: Any) -> bool:
    """Whether it is `{"name": ..., "arguments": {...}}` and nothing more: enough to tell a call amid text."""
    return isinstance(value, dict) and value.keys() == {"name", "arguments"} and isinstance(value["arguments"], dict)


def not_json(name: str) -> Any:
    """Refuses NaN and infinities, which Python's reader takes; raises ValueError."""
    raise ValueError(f"{name} is not JSON")


def as_call(value: Any, names: frozenset[str]) -> CalledFunction | None:
    """A call of an offered function, whose arguments are an object or the text of one; or None."""
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    if isinstance(inner, dict):
        value = inner
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters")) or {}
    if not isinstance(name, str) or name not in names:
        return None
    try:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        text.encode()
        if not isinstance(json.loads(text, parse_constant=not_json), dict):
            return None
    except (ValueError, TypeError, RecursionError):
        return None  # a lone surrogate, NaN, or what only Python has
    return CalledFunction(name, text)
