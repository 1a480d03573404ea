"""A regular expression as a grammar: what it matches as a whole."""

import re

from nimble_coder.gateway.requests.ebnf.grammar import NO_TEXT, FormError, literal, numbered, repeated

CLASSES = {"d": "0-9", "w": "a-zA-Z0-9_", "s": r" \t\n\x0b-\r"}
"""Of ASCII, as JSON Schema's are."""
CONTROLS = {"n": "\n", "t": "\t", "r": "\r"}
REPEATED = re.compile(r"([*+?])|\{(\d{1,4})(,(\d{0,4}))?\}")
WIDE, MARKS = "[^", "\\]^-["
LONGEST = 4096
MOST_COPIES = 64
"""Of characters, by all repetitions together."""
DEEPEST = 64


def regex_body(pattern: str) -> str:
    """The body of a rule; raises `FormError` for what is no expression, and for what this does not read: looking
    around, references, lazy repetitions, Unicode's classes."""
    if len(pattern) > LONGEST:
        raise FormError(f"the regular expression has more than {LONGEST} characters")
    body, _ = Reader(pattern).whole()
    return body


class Reader:
    """Reads an expression from left to right. Each part is a body and whether it matches no text at all."""

    def __init__(self, pattern: str) -> None:
        self._rest = pattern.removeprefix("^")
        if self._rest.endswith("$") and not self._rest.endswith("\\$"):
            self._rest = self._rest[:-1]
        self._depth = self._copies = 0

    def whole(self) -> tuple[str, bool]:
        """All of it."""
        found = self._choice()
        if self._rest:
            raise FormError("the regular expression closes a group that it has not opened")
        return found

    def _choice(self) -> tuple[str, bool]:
        parts = [self._sequence()]
        while self._taken("|"):
            parts.append(self._sequence())
        return " | ".join(body for body, _ in parts), any(is_empty for _, is_empty in parts)

    def _sequence(self) -> tuple[str, bool]:
        bodies, is_empty = [], True
        while self._rest and self._rest[0] not in "|)":
            body, may_be_empty = self._repeated()
            bodies.append(body)
            is_empty = is_empty and may_be_empty
        return " ".join(bodies) or NO_TEXT, is_empty

    def _repeated(self) -> tuple[str, bool]:
        body, is_empty = self._one()
        found = REPEATED.match(self._rest)
        if not found:
            return body, is_empty
        self._rest = self._rest[found.end() :]
        if self._rest[:1] in ("*", "+", "?") or REPEATED.match(self._rest):
            raise FormError("the regular expression repeats a repetition, or lazily")
        if is_empty:
            raise FormError("the regular expression repeats what may be nothing")
        least, most = bounds(found)
        if body.startswith("(") and (WIDE in body or max(least, most or 1) > 1):
            raise FormError("the regular expression repeats a group too often, or one with wide classes")
        self._copies += max(least, most or 1)
        if self._copies > MOST_COPIES:
            raise FormError(f"the regular expression's repetitions come to more than {MOST_COPIES} characters")
        return repeated(body, least, most), least == 0

    def _one(self) -> tuple[str, bool]:
        character, self._rest = self._rest[0], self._rest[1:]
        match character:
            case "(":
                return self._group()
            case "[":
                return self._class(), False
            case "\\":
                return self._escape(), False
            case ".":
                return r"[^\n]", False
            case "*" | "+" | "?" | "{" | "^" | "$":
                raise FormError(f"the regular expression has a {character} where this engine takes none")
        return literal(character), False

    def _group(self) -> tuple[str, bool]:
        if self._rest.startswith("?") and not self._taken("?:"):
            raise FormError(f"the regular expression has a group ({self._rest[:3]}, which this engine does not take")
        self._depth += 1
        if self._depth > DEEPEST:
            raise FormError(f"the regular expression is nested more than {DEEPEST} deep")
        body, is_empty = self._choice()
        self._depth -= 1
        if not self._taken(")"):
            raise FormError("the regular expression does not close a group")
        return f"({body})", is_empty

    def _escape(self) -> str:
        name, self._rest = self._rest[:1], self._rest[1:]
        if name.lower() in CLASSES and name:
            return f"[{'^' if name.isupper() else ''}{CLASSES[name.lower()]}]"
        return literal(escape(name))

    def _class(self) -> str:
        content, last, is_first = "^" if self._taken("^") else "", "", True
        while is_first or not self._taken("]"):
            if not self._rest:
                raise FormError("the regular expression does not close a class")
            character, self._rest, is_first = self._rest[0], self._rest[1:], False
            if character == "-" and content not in ("", "^") and self._rest[:1] not in ("]", ""):
                content += "-"
                continue
            if character == "\\":
                name, self._rest = self._rest[:1], self._rest[1:]
                if name in CLASSES and name:
                    content += CLASSES[name]
                    continue
                character = escape(name)
            if character in MARKS or not character.isprintable():
                if content.endswith("-") or self._rest[:1] == "-":
                    raise FormError("the regular expression has a range with a mark at its end")
                last += character if not character.isascii() else numbered(character)
            else:
                content += character
        return f"[{content}{last}]"

    def _taken(self, text: str) -> bool:
        is_there = self._rest.startswith(text)
        if is_there:
            self._rest = self._rest[len(text) :]
        return is_there


def bounds(found: re.Match[str]) -> tuple[int, int | None]:
    """How often, at least and at most."""
    sign, least, comma, most = found.groups()
    if sign:
        return (1 if sign == "+" else 0), (1 if sign == "?" else None)
    upper = None if comma and not most else int(most or least)
    if upper is not None and upper < int(least):
        raise FormError("the regular expression repeats at most fewer times than at least")
    return int(least), upper


def escape(name: str) -> str:
    """The character that an escape stands for."""
    if name in CONTROLS:
        return CONTROLS[name]
    if not name or name.isalnum() or not name.isascii():
        raise FormError(f"the regular expression has \\{name}, which this engine does not take")
    return name
