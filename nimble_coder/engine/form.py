"""Answers held to a form: which tokens may come next, and which must, so that the whole text has the form in the end.

A form is compiled once, by llguidance (https://github.com/guidance-ai/llguidance), and kept for requests that send the
same. What may come next changes the logits alone: drafts are verified against the masked choices, so an output is that
of plain decoding under the same form.
"""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits
from llguidance.gbnf_to_lark import gbnf_to_lark

from nimble_coder.contract.request import FORM_NAME, MOST_GUIDE, WRONG_SCHEMA, Guide, GuideType, RequestError
from nimble_coder.engine.deep_stack import run_deep
from nimble_coder.engine.endless import check_finite
from nimble_coder.engine.form_tokenizer import TEXTS, by_number, form_tokenizer
from nimble_coder.engine.likely import Floats
from nimble_coder.engine.schema_numbers import check_integers, with_told_bounds
from nimble_coder.engine.schema_references import check_references
from nimble_coder.engine.slow_schema import MOST_JOINED, check_patterns

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

KEPT = 64
"""Compiled forms; with the limits below, each takes some 10 MiB at most, and usually less than one."""
LIMITS = LLParserLimits(
    max_items_in_row=1000,
    initial_lexer_fuel=1_000_000,  # of building regular expressions, 50,000 a millisecond by llguidance's own account
    step_lexer_fuel=200_000,  # of a mask, 14,000 a millisecond
    step_max_items=50_000,  # of a mask, 20,000 a millisecond
    max_lexer_states=10_000,  # 1 to 2 kB each
    max_grammar_size=200_000,
    verbose_errors=False,
)
LAYOUT: "JsonCompileOptions" = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON on one line, as Python writes it and the chat template shows calls: most of it can be drafted for certain, and
no answer is blanks without end."""
FREE_SECONDS, SECONDS_PER_TOKEN = 1.0, 0.005
"""Of a core that one answer's form may take: usual ones take 2 to 450 us a token. An ambiguous grammar (`e: e e | "a"`)
takes 150 ms, all within `LIMITS`, and every other request waits."""
MOST_PROPERTIES = 500
"""Of one object: the time to compile grows with their square, 0.1 s for so many and 8 s for 6,000."""
MOST_GBNF = 20_000_000
"""Rules times characters: what converts them looks at all once a rule, in Python, and takes 1 to 2 s for so many."""
MARK = re.compile(r"(?P<mark>%json\s*)")
TEXTS_AND_SCHEMAS = re.compile(rf"{TEXTS.pattern}|{MARK.pattern}")
RULE = re.compile(r"^[ \t]*+[?!]?(\w++)[^:\n]*+:", re.MULTILINE)
"""The beginning of a rule in Lark."""
FAILED_SCHEMA = re.compile(r"at (?P<line>\d+)\(\d+\): failed to compile JSON schema: ")
"""What llguidance says of a schema in Lark, before what is wrong."""
DECODER = json.JSONDecoder()
ANY_OBJECT = '{"type": "object"}'


class SchemaError(ValueError):
    """A wrong schema in Lark, behind the name of its rule."""


class Form:
    """One answer's place in its form. Not for two threads at once."""

    def __init__(self, matcher: LLMatcher, ends: Collection[int], placeholder: int, vocab_size: int) -> None:
        """`ends` are the tokens that may end the answer where the form is complete, in place of the one that llguidance
        was told of, the `placeholder`."""
        self._matcher = matcher
        self._ends = frozenset(ends)
        self._end_places = np.array(sorted(ends), np.int64)
        self._placeholder = placeholder
        self._mask = np.zeros(-(-vocab_size // 32), np.int32)
        self._vocab_size = vocab_size
        self._seconds, self._tokens = 0.0, 0
        """Of a core, and tokens so far."""
        self._forced: list[int] = []
        """The last first: the tokens of the text that has to come next, as far as they were found."""
        self._knows_forced = False
        self.is_over = False
        """Nothing can follow: the form is complete and cannot go on, or a token has ended it."""

    def hold(self, logits: Floats) -> Floats:
        """Logits `[vocab_size]`, -inf for each token that cannot come next; raises `RequestError` where the form turns
        out to be too complex."""
        self._knows_forced = False  # what the mask allows goes by the text that is left alone
        started = thread_time()
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._spend(started)
        self._check()
        bits = np.unpackbits(self._mask.view(np.uint8), count=self._vocab_size, bitorder="little")
        allowed = bits.view(np.bool_)
        allowed[self._placeholder] = False
        if self._matcher.is_accepting():
            allowed[self._end_places] = True
        return np.where(allowed, logits, np.float32(-np.inf))

    def allows(self, token: int) -> bool:
        """Whether a token can come next: microseconds, where all that can take up to half a millisecond."""
        if token in self._ends:
            return bool(self._matcher.is_accepting())
        self._find_forced()
        if self._forced:
            return token == self._forced[-1]  # of a text that must come, other tokens than the tokenizer's do not count
        return token != self._placeholder and self._matcher.validate_tokens([token]) == 1

    def accept(self, token: int) -> None:
        """Goes on by the token that was chosen."""
        self._knows_forced = self._knows_forced and self._forced[-1:] == [token] and len(self._forced) > 1
        if self._knows_forced:
            self._forced.pop()
        if token in self._ends:
            self.is_over = True
            return
        started = thread_time()
        self._matcher.consume_token(token)
        self._tokens += 1
        self._spend(started)
        self._check()
        self.is_over = self._matcher.is_stopped()

    def forced(self, most: int) -> list[int]:
        """The first tokens of the text that has to come next, as the tokenizer would have them; often none."""
        if self.is_over:
            return []
        self._find_forced()
        return self._forced[: -most - 1 : -1]

    def _find_forced(self) -> None:
        """Once for a text: a millisecond for 1,000 characters, which each of its tokens would take again."""
        if not self._knows_forced:
            started = thread_time()
            self._forced, self._knows_forced = self._matcher.compute_ff_tokens()[::-1], True
            self._seconds += thread_time() - started

    def _spend(self, started: float) -> None:
        self._seconds += thread_time() - started
        if self._seconds > FREE_SECONDS + SECONDS_PER_TOKEN * self._tokens:
            took = f"{self._seconds:.1f} s of a core for {self._tokens} tokens"
            raise RequestError(f"{FORM_NAME} is too complex: it took {took}; make its grammar less ambiguous")

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestError(f"{FORM_NAME} is too complex or cannot be kept: {brief(self._matcher.get_error())}")


class Forms:
    """Compiles forms for one tokenizer. Any thread may ask."""

    def __init__(self, tokenizer: Path, vocab_size: int, control: Mapping[str, int]) -> None:
        """Reads the directory's `tokenizer.json`, whose control tokens are given (`added_tokens`): that takes 100 MiB
        for 150,000 tokens and a second, in which no other thread of Python runs; at the first form, every stream would
        stand still for it."""
        self._vocab_size = vocab_size
        # Which end llguidance is told of does not matter: those of a request take its place. It is special.
        self._control = control
        self._placeholder = min(self._control.values())
        self._tokenizer = form_tokenizer(tokenizer, vocab_size, self._placeholder)
        self._lock = threading.Lock()
        self._compiled: OrderedDict[Guide, LLMatcher] = OrderedDict()

    def open(self, guide: Guide, ends: Collection[int]) -> Form:
        """A form at its beginning; raises `RequestError` for one that is wrong, endless or too large. `ends` counts
        where a token is no ordinary text."""
        with self._lock:
            matcher = self._compiled.get(guide)
            if matcher:
                self._compiled.move_to_end(guide)
        if matcher is None:
            matcher = run_deep(lambda: self._compile(guide))
            with self._lock:
                self._compiled[guide] = matcher
                while len(self._compiled) > KEPT:
                    self._compiled.popitem(last=False)
        special = {i for i in ends if self._tokenizer.is_special_token(i)}
        return Form(matcher.deep_copy(), special, self._placeholder, self._vocab_size)

    def _compile(self, guide: Guide) -> LLMatcher:
        if len(guide.text) > MOST_GUIDE:
            raise RequestError(
                f"{FORM_NAME} has {len(guide.text)} characters, {MOST_GUIDE} is the limit: send a smaller one"
            )
        try:
            grammar = grammar_of(guide, self._control)
        except RecursionError:
            raise RequestError(f"{FORM_NAME} is nested too deeply") from None
        except OverflowError:
            raise RequestError(f"{FORM_NAME} has a number that no float of 64 bits holds") from None
        except SchemaError as error:
            raise RequestError(f"{FORM_NAME} {WRONG_SCHEMA} {brief(str(error))}") from None
        except Exception as error:  # the converter of grammars raises Exception itself
            raise RequestError(f"{FORM_NAME} is no {guide.type.value}: {brief(str(error))}") from None
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            first = matcher.deep_copy()
            first.compute_bitmask()  # where no text has the form, it shows here
            first.compute_ff_tokens()  # and where what is forced has no end
            if not first.is_error():
                return matcher
            matcher = first
        wrong = matcher.get_error()
        if found := FAILED_SCHEMA.search(wrong):
            rule = rule_before("\n".join(grammar.split("\n")[: int(found["line"])]))
            raise RequestError(f"{FORM_NAME} {WRONG_SCHEMA} {rule}: {brief(wrong[found.end() :])}")
        raise RequestError(f"{FORM_NAME} is not supported as it is: {brief(wrong)}")


def grammar_of(guide: Guide, control: Mapping[str, int]) -> str:
    """llguidance's grammar for a form, whose Lark may name control tokens; raises whatever is wrong with it."""
    match guide.type:
        case GuideType.JSON:
            return LLMatcher.grammar_from_json_schema(ANY_OBJECT, overrides=LAYOUT)
        case GuideType.JSON_SCHEMA:
            schema = json.loads(guide.text)
            check_schema(schema)
            return LLMatcher.grammar_from_json_schema(json.dumps(with_told_bounds(schema)), overrides=LAYOUT)
        case GuideType.REGEX:
            return LLMatcher.grammar_from_regex(guide.text)
        case GuideType.EBNF_GRAMMAR:
            if guide.text.count("::=") * len(guide.text) > MOST_GBNF:
                raise ValueError("it has too many rules for its length, or is too long for them: send it in Lark")
            return LLMatcher.grammar_from_lark(gbnf_to_lark(guide.text))
        case GuideType.CHOICE:
            choices = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in json.loads(guide.text))
            return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {choices}")
        case GuideType.LARK:
            if TEXTS.sub("", guide.text).count("&") > MOST_JOINED:
                raise ValueError(f"it has more than {MOST_JOINED} '&': such terminals take too long to compile")
            check_schemas(guide.text)
            return LLMatcher.grammar_from_lark(by_number(with_bounds(guide.text), control))


def check_schemas(lark: str) -> None:
    """Checks all in Lark that could be a schema, whatever it stands in: one that is missed can end the process. Raises
    `SchemaError` for a wrong one; what is no JSON belongs to a text, or llguidance refuses it."""
    for found in MARK.finditer(lark):
        try:
            schema, _ = DECODER.raw_decode(lark, found.end())
        except ValueError:
            continue
        try:
            check_schema(schema)
        except ValueError as error:
            raise SchemaError(f"{rule_before(lark[: found.end()])}: {error}") from None


def rule_before(lark: str) -> str:
    """The rule that what follows some Lark is in; nothing where it is in none."""
    names = RULE.findall(lark)
    return str(names[-1]) if names else ""


def with_bounds(lark: str) -> str:
    """Lark whose schemas have no exclusive bounds."""
    pieces, place = [], 0
    for found in TEXTS_AND_SCHEMAS.finditer(lark):
        if found["mark"]:
            schema, end = DECODER.raw_decode(lark, found.end())
            pieces += [lark[place : found.end()], json.dumps(with_told_bounds(schema))]
            place = end
    return "".join([*pieces, lark[place:]])


def check_schema(schema: Any) -> None:
    """Raises ValueError for a schema that takes too long to compile, that no finite value has, or that may hide it."""
    check_properties(schema)
    check_references(schema)
    check_integers(schema)
    check_finite(schema)
    check_patterns(schema)


def check_properties(schema: Any) -> None:
    """Raises ValueError for an object with too many properties."""
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    if len(parts) > MOST_PROPERTIES and isinstance(schema, dict):
        raise ValueError(f"an object of it has {len(parts)} properties, {MOST_PROPERTIES} is the limit")
    for part in parts:
        check_properties(part)


def brief(error: str) -> str:
    """The first line of what a library says, and why where another one says that, at most 300 characters."""
    first, *others = error.splitlines() or [""]
    why = next((line for line in others if line.startswith("error: ")), "")
    return f"{first} {why.removeprefix('error: ')}".rstrip()[:300]
