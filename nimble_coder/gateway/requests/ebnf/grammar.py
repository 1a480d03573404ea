"""Writes xgrammar's EBNF: https://xgrammar.mlc.ai/docs/tutorials/ebnf_guided_generation.html.

Held to what its versions 0.1.11 and 0.1.17 read alike; TensorRT-LLM 0.19 has one of about that age.
"""

import re
from dataclasses import dataclass, field

MOST_TEXT = 100_000
"""Characters of a grammar: the engine compiles it within a step, and every request waits."""
MOST_REPEATED = 512
"""xgrammar writes a repetition with bounds out."""
MOST_COPIES = 24
"""Characters of strings whose length is bounded: one takes a core 0.3 s where there are 151,936 tokens."""
NO_TEXT = '""'


class FormError(ValueError):
    """A form that these engines cannot be held to; says which part of it."""


@dataclass
class Grammar:
    """Rules by their names; `root` is the whole."""

    rules: dict[str, str] = field(default_factory=dict)
    size: int = 0
    copies: int = 0

    def name(self) -> str:
        """That of a rule that is to come."""
        name = f"r{len(self.rules)}"
        self.rules[name] = NO_TEXT
        return name

    def define(self, name: str, body: str) -> str:
        """Sets a rule, and returns its name; raises `FormError` where the grammar becomes too large."""
        self.size += len(body)
        if self.size > MOST_TEXT:
            raise FormError("the form is too large for this engine")
        self.rules[name] = body
        return name

    def add(self, body: str) -> str:
        """A new rule; returns its name."""
        return self.define(self.name(), body)

    def copy(self, count: int) -> None:
        """Notes that a class of characters stands so many times; raises `FormError` where that takes too long."""
        self.copies += count
        if self.copies > MOST_COPIES:
            raise FormError(f"this engine cannot be held to lengths of more than {MOST_COPIES} characters in all")

    def text(self, root: str) -> str:
        """The grammar, `root` being the body of its first rule."""
        return "\n".join([f"root ::= {root}", *(f"{name} ::= {body}" for name, body in self.rules.items())])


def literal(text: str) -> str:
    """Exactly this text; raises `FormError` for characters that xgrammar takes for bytes.

    Other characters than ASCII's printable ones stand in classes: of a character's number, xgrammar takes as many
    hexadecimal digits as follow.
    """
    parts = re.findall(r"[\x20-\x7e\t\n\r]+|[^\x20-\x7e\t\n\r]", text)
    return " ".join(quoted(part) if part.isascii() and part >= "\t" else in_class(part) for part in parts) or NO_TEXT


def quoted(text: str) -> str:
    """ASCII within quotes."""
    if not (text.strip("\t\n\r") or text).replace("\t", " ").replace("\n", " ").replace("\r", " ").isprintable():
        return in_class(text)
    for character, written in (("\\", r"\\"), ('"', r"\""), ("\t", r"\t"), ("\n", r"\n"), ("\r", r"\r")):
        text = text.replace(character, written)
    return f'"{text}"'


def in_class(character: str) -> str:
    """One character as a class."""
    if "\x80" <= character <= "\xff":
        raise FormError(f"this engine cannot be held to {character!r}, as to none from U+0080 to U+00FF")
    return f"[{character if not character.isascii() else numbered(character)}]"


def numbered(character: str) -> str:
    """A character by its number; no digit may follow."""
    return f"\\x{ord(character):02x}"


def repeated(body: str, least: int, most: int | None) -> str:
    """A body so many times; raises `FormError` for more than these engines bear."""
    if max(least, most or 0) > MOST_REPEATED:
        raise FormError(f"something is repeated more than {MOST_REPEATED} times in the form")
    one = body if body.startswith("[") and body.find("]") == len(body) - 1 else f"({body})"
    if most is None:
        return f"{one}*" if not least else f"{one}+" if least == 1 else f"{one}{{{least}}} {one}*"
    return NO_TEXT if not most else f"{one}?" if (least, most) == (0, 1) else f"{one}{{{least},{most}}}"
