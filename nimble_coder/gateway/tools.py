"""Tool calls in the model's text, in every form that Qwen2.5-Coder really writes them.

It is asked for `<tool_call>` and often answers with a fenced block, bare JSON, or `<tools>` (vLLM issue 32926).
"""

import json
import re
from dataclasses import dataclass
from typing import Any

OPENINGS = ("<tool_call>", "<tools>", "```")
WRAPPED = re.compile(
    r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)|<tools>\s*(.*?)\s*(?:</tools>|$)|```\w*\s*(.*?)\s*(?:```|$)", re.S
)
LONGEST_OPENING = max(map(len, OPENINGS))


@dataclass(frozen=True)
class Called:
    """One call: a function's name and its arguments as JSON text."""

    name: str
    arguments: str

    def as_json(self, call_id: str) -> dict[str, Any]:
        """An element of `tool_calls`."""
        return {"id": call_id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class ToolCallParser:
    """Passes text on until something begins that may be a call, and decides at the end what it was."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        """The functions offered: JSON that names another is ordinary text."""
        self._held = ""
        self._holding = False
        self._began = False

    def push(self, text: str) -> str:
        """The text that cannot be part of a call."""
        held = self._held + text
        if self._holding:
            self._held = held
            return ""
        place = self._opening(held)
        if place is not None:
            self._holding, self._held = True, held[place:]
            return held[:place]
        keep = self._tail(held)
        self._held = held[keep:]
        self._began = self._began or bool(held[:keep].strip())
        return held[:keep]

    def finish(self) -> tuple[str, list[Called]]:
        """The rest of the text, and the calls; text that only looked like one is given back."""
        calls = parse_calls(self._held, self._names)
        if not calls:
            return self._held, []
        return "", calls

    def _opening(self, held: str) -> int | None:
        """Where a call may begin: at any tag or fence, and at a bracket that opens the answer."""
        found = [place for opening in OPENINGS if (place := held.find(opening)) >= 0]
        start = held.lstrip()
        if not self._began and start[:1] in ("{", "["):
            found.append(len(held) - len(start))
        return min(found) if found else None

    def _tail(self, held: str) -> int:
        """Where the longest tail begins that an opening begins with; blanks at the very start wait too."""
        if not self._began and not held.strip():
            return 0
        for start in range(max(0, len(held) - LONGEST_OPENING + 1), len(held)):
            if any(opening.startswith(held[start:]) for opening in OPENINGS):
                return start
        return len(held)


def parse_calls(text: str, names: frozenset[str]) -> list[Called]:
    """The calls in a text that consists of calls; empty where it does not."""
    bodies = [next(filter(None, groups), "") for groups in WRAPPED.findall(text)] or [text]
    calls: list[Called] = []
    for body in bodies:
        for value in read_json(body):
            for item in value if isinstance(value, list) else [value]:
                call = as_call(item, names)
                if call is None:
                    return []
                calls.append(call)
    return calls


def read_json(text: str) -> list[Any]:
    """The JSON values that stand one after the other in a text; empty where there is anything else."""
    decoder, values, place = json.JSONDecoder(strict=False), [], 0
    text = text.strip()
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return []
        values.append(value)
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
    return values


def as_call(value: Any, names: frozenset[str]) -> Called | None:
    """A call of an offered function, or None."""
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    if isinstance(inner, dict):
        value = inner
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters", {}))
    if not isinstance(name, str) or name not in names:
        return None
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return Called(name, text)
