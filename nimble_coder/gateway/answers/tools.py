"""Tool calls in the model's text, in every form that Qwen2.5-Coder really writes them.

It is asked for `<tool_call>` and often answers with a fenced block, bare JSON, or `<tools>` (vLLM issue 32926).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from nimble_coder.gateway.answers.bodies.chat import CalledFunction, ChatFinishReason
from nimble_coder.gateway.answers.bodies.completion import FinishReason
from nimble_coder.gateway.answers.call_json import (
    ARGUMENT_KEYS,
    ARGUMENTS,
    CLOSINGS,
    DECODER,
    FENCE,
    as_call,
    called,
    has_exact_shape,
    may_go_on,
    read_python,
    unclosed,
)
from nimble_coder.gateway.answers.calling import Calling, squeeze

TAGS = ("<tool_call>", "<tools>")
LANGUAGES = ("", "json", "tool_call", "tools", "xml")
"""What a fence around a call may be marked with."""
OPENING = re.compile(r"(?:```(?P<language>\w*)\s*)?(?P<tag><(?:tool_call|tools)>\s*)?(?:\[\s*)*")
CLOSING_TAG = re.compile(r"</(?:tool_call|tools)>")
DEMANDED = re.compile(r'<tool_call>\n\{"name": ("(?:[^"\\]|\\.)*"), "arguments":\s*')
"""The beginning of a demanded call, up to its arguments."""
GAP = " \t\r\n,"
MARKS = re.compile(r"[<`{\[]")
MARKS_IN_CODE = re.compile(r"[<`]")
SURELY_A_TAG = len("<tool_")
BEGUN = re.compile(r',?\s*"?(\w*)"?\s*:?\s*')
"""What there may be of `ARGUMENTS` where a call is cut."""
HELD_CLOSING = "}\n</tool_call>"
"""What follows the arguments of a call that is held to its form."""


class UndecidedError(Exception):
    """Only more text can tell."""


UNFINISHED = CalledFunction("", "")
"""Stands for a call that the end has cut: its markup is no text."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What an answer goes on with."""

    text: str
    """Of what the model says, or of a call's arguments."""
    call: int | None = None
    """Which call's; None for what it says."""
    name: str | None = None
    """The function's, with the first piece of a call."""


class ObjectEnd:
    """Finds where a JSON object ends in a text that comes piece by piece."""

    def __init__(self) -> None:
        self.is_found = False
        self._depth = 0
        self._is_in_string = self._is_escaped = False

    def find(self, text: str, start: int) -> int:
        """Where it ends in the next piece, which is the text from `start` on, or where the piece does."""
        for place in range(start, len(text)):
            character = text[place]
            if self._is_escaped:
                self._is_escaped = False
            elif self._is_in_string:
                self._is_escaped, self._is_in_string = character == "\\", character != '"'
            elif character == '"':
                self._is_in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "]}":
                self._depth -= 1
                if self._depth <= 0:
                    self.is_found = True
                    return place + 1
        return len(text)


def gather(pieces: Iterable[Piece]) -> tuple[str, list[CalledFunction]]:
    """Text and calls of a whole answer."""
    said = ""
    calls: list[CalledFunction] = []
    for piece in pieces:
        if piece.call is None:
            said += piece.text
        elif piece.name is not None:
            calls.append(CalledFunction(piece.name, piece.text))
        else:
            calls[piece.call].arguments += piece.text
    return said, calls


def name_in(text: str) -> str | None:
    """A name that is written as a string of JSON; None where it is none."""
    try:
        return str(json.loads(text))
    except ValueError:
        return None


class ToolCallParser:
    """Tells calls from text. Text is passed on as soon as it cannot be part of a call; all of it is, but for the markup
    of calls, cut ones included, and the blanks around them where there is nothing else. Of a call that is held to its
    form the arguments are passed on as they come, of another one when they are complete."""

    def __init__(self, calling: Calling) -> None:
        self._calling = calling
        self._names = calling.names
        self._beginnings = calling.beginnings
        self._enough = 2 * max(map(len, self._beginnings))
        """So many characters tell how JSON begins; where most of them are blanks, its end has to."""
        self._held = calling.opening
        self._own = len(calling.opening)
        """So many characters of what is held are not the model's, and never text of the answer."""
        self._pieces: list[Piece] = []
        """What has been found and not been passed on."""
        self._count = 0
        """Calls so far."""
        self._open: ObjectEnd | None = None
        """Looks for the end of the arguments that are being passed on."""
        self._is_over = False
        self._is_cut = self._is_last_cut = self._is_broken = False
        self._has_text = False
        """Since the start, or since the last call."""
        self._closings: tuple[str, ...] = ()
        """What still belongs to the last call if it comes next."""
        self._fence: str | None = None
        """The language of the fence that the text is in."""

    def push(self, text: str) -> list[Piece]:
        """The text that cannot be part of a call, and what is known of calls."""
        self._held += text
        self._pass_on()
        return self._taken()

    def finish(self) -> list[Piece]:
        """The rest; text that only looked like a call is given back, cut markup is not."""
        self._is_over = True
        rest = self._held
        self._pass_on()
        if not self._count:
            call = self._cut_call(rest) if self._calling.opening else None
            if call:
                self._pieces = []
                self._add(call)
            else:
                self._say(self._take(self._held))
        return self._taken()

    def reason(self, own: FinishReason) -> ChatFinishReason:
        """Why an answer has ended, where its tokens ended for a reason of their own: with calls, unless a limit cut the
        turn behind the last whole one, or a stop string a call's arguments."""
        if not self._count:
            return own
        whole = self._count - (self._open is not None or self._is_last_cut)
        is_enough = self._calling.most is not None and whole >= self._calling.most
        is_broken = self._is_broken or (self._open is not None and not self._open.is_found)
        is_cut = own == "length" and (self._open is not None or self._is_cut or self._has_text)
        return own if (is_cut or is_broken) and not is_enough else self._calling.finish_reason

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _say(self, text: str) -> None:
        if text:
            self._pieces.append(Piece(text))

    def _add(self, call: CalledFunction) -> None:
        """A call from its beginning: whole, or without arguments yet."""
        if self._calling.most is None or self._count < self._calling.most:
            self._pieces.append(Piece(call.arguments, self._count, call.name))
        self._count += 1

    def _cut_call(self, rest: str) -> CalledFunction | None:
        """A demanded call whose end is missing, with what there is of its arguments: as OpenAI's are at a limit."""
        begun = DEMANDED.match(rest)
        name = name_in(begun[1]) if begun else None
        if not begun or name is None or name not in self._names:
            return None
        self._is_cut = self._is_last_cut = True
        try:
            end = DECODER.raw_decode(rest, begun.end())[1]
        except (ValueError, RecursionError):
            end, self._is_broken = len(rest), True
        return CalledFunction(name, rest[begun.end() : end].removesuffix("</tool_call>").rstrip())

    def _take(self, piece: str) -> str:
        """A piece of text without what is not the model's."""
        own = min(self._own, len(piece))
        self._own -= own
        return piece[own:]

    def _pass_on(self) -> None:
        place = 0
        try:
            while True:
                if self._open:
                    place = self._pass_arguments(place)
                    if self._open:
                        break
                start = place if self._has_text else len(self._held) - len(self._held[place:].lstrip(GAP))
                if start == len(self._held):
                    break
                closing = next((c for c in self._closings if self._held.startswith(c, start)), None)
                if closing:
                    place = start + len(closing)
                    self._closings = CLOSINGS if closing == FENCE else self._closings
                    continue
                begun = self._begin(start)
                if begun is not None:
                    place = begun
                    continue
                end, call = self._next(start)
                if call is UNFINISHED:
                    self._is_cut, self._own = True, 0
                elif call:
                    self._add(call)
                    self._own = 0
                else:
                    self._wait_if(self._own > 0)  # a demanded call, whatever comes
                    self._say(self._take(self._held[place:end]))
                    self._closings = ()
                self._has_text = call is None
                place = end
        except UndecidedError:
            pass
        self._held = self._held[place:]

    def _begin(self, start: int) -> int | None:
        """Where the arguments begin of a call that begins here and is held to its form; None for anything else."""
        beginnings = self._calling.held_beginnings
        if self._held[start] != "<":
            return None
        found = next((each for each in beginnings if self._held.startswith(each, start)), None)
        if not found:
            self._wait_if(is_cut(self._held, start, beginnings))
            return None
        self._add(CalledFunction(beginnings[found], ""))
        self._open, self._own, self._has_text, self._closings = ObjectEnd(), 0, False, ()
        return start + len(found)

    def _pass_arguments(self, place: int) -> int:
        """Passes on what there is of a held call's arguments; returns where the call ends, or where more must come."""
        assert self._open is not None  # noqa: S101 - for the type checker
        if not self._open.is_found:
            end = self._open.find(self._held, place)
            if end > place and (self._calling.most is None or self._count <= self._calling.most):
                self._pieces.append(Piece(self._held[place:end], self._count - 1))
            place = end
        rest = self._held[place : place + len(HELD_CLOSING)]
        if not self._open.is_found or (rest != HELD_CLOSING and HELD_CLOSING.startswith(rest)):
            return len(self._held) if self._is_over else place
        self._open, self._closings = None, CLOSINGS
        return place + (len(HELD_CLOSING) if rest == HELD_CLOSING else rest.startswith("}"))

    def _next(self, start: int) -> tuple[int, CalledFunction | None]:
        """Where the call or the piece of text ends that begins here."""
        held = self._held
        in_code = self._fence not in (None, *LANGUAGES)
        mark = (MARKS_IN_CODE if in_code else MARKS).search(held, start)
        opening = OPENING.match(held, start) if mark and mark.start() == start else None
        if not opening:
            return mark.start() if mark else len(held), None
        self._wait_if(is_cut(held, start, (FENCE, *TAGS, *self._closings)))
        language = opening["language"]
        is_tag = opening["tag"] and opening.end() == len(held) and (language or "").lower() in LANGUAGES
        if self._is_over and (is_tag or (len(held) - start >= SURELY_A_TAG and is_cut(held, start, TAGS))):
            return len(held), UNFINISHED
        if language == "" and self._fence is not None:
            self._fence = None
            return start + len(FENCE), None
        found = self._call(opening)
        if found:
            is_fenced = language is not None or FENCE in self._closings
            self._closings = (*CLOSINGS, FENCE) if is_fenced else CLOSINGS
        if language is None:
            return found or (start + 1, None)
        self._fence = None if found else language.lower()
        return found or (start + len(FENCE), None)

    def _call(self, opening: re.Match[str]) -> tuple[int, CalledFunction] | None:
        """The call behind an opening and where it ends; None for anything else."""
        held, start, language = self._held, opening.end(), (opening["language"] or "").lower()
        if opening.end("language") == len(held) and any(known.startswith(language) for known in LANGUAGES):
            self._wait_if(True)
        if language not in LANGUAGES:
            return None
        self._wait_if(start == len(held) or is_cut(held, start, TAGS))
        beginning = squeeze(held[start : start + self._enough])
        if not any(known.startswith(beginning) or beginning.startswith(known) for known in self._beginnings):
            return None
        try:
            value, end = DECODER.raw_decode(held, start)
        except (ValueError, RecursionError) as error:
            self._wait_if(may_go_on(error, held))
            if lacking := unclosed(held, start, self._names):
                value, end = lacking
                self._is_cut = end == len(held)
            elif not opening["tag"]:
                is_bare = opening["language"] is None
                is_cut_call = may_go_on(error, held) and self._is_begun(start, is_bare and self._has_text)
                return (len(held), UNFINISHED) if is_cut_call else None
            else:
                closing = CLOSING_TAG.search(held, start)
                self._wait_if(closing is None)
                end = closing.start() if closing else len(held)
                value = read_python(held[start:end])
                if not closing and as_call(value, self._names) is None:
                    return end, UNFINISHED
        is_bare = opening["tag"] is None and opening["language"] is None
        if is_bare and self._has_text and not has_exact_shape(value):
            return None
        call = as_call(value, self._names)
        return (end, call) if call and self._calling.strict.allow(call) else None

    def _is_begun(self, start: int, is_amid_text: bool) -> bool:
        """Whether JSON that the end cuts would have been a call: it names an offered function, and its arguments come
        next or may. Amid text they must be what is cut: a whole call there has nothing behind them."""
        name, place = called(self._held, start) or ("", start)
        if name not in self._names:
            return False
        if arguments := ARGUMENTS.match(self._held, place):
            return not is_amid_text or self._is_cut_object(arguments.end())
        begun = BEGUN.fullmatch(self._held, place)
        return begun is not None and not is_amid_text and any(key.startswith(begun[1]) for key in ARGUMENT_KEYS)

    def _is_cut_object(self, start: int) -> bool:
        try:
            DECODER.raw_decode(self._held, start)
        except (ValueError, RecursionError):
            return self._held.startswith("{", start)
        return False

    def _wait_if(self, can_tell_later: bool) -> None:
        if can_tell_later and not self._is_over:
            raise UndecidedError


def is_cut(text: str, start: int, known: Iterable[str]) -> bool:
    """Whether a text ends within, or right behind, one of the known strings that begins here."""
    return any(len(text) - start <= len(k) and k.startswith(text[start:]) for k in known)
