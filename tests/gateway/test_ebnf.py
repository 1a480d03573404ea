"""Forms as grammars for TensorRT's guided decoding, read by another library than the one that will: llguidance."""

import json
import random
import re
import time
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark

from build_engine.guide_tokens import GUIDE_TOKENS, write_guide_tokens
from nimble_coder.contract.request import Guide, GuideType
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.ebnf.grammar import FormError
from nimble_coder.gateway.requests.ebnf.guide import as_ebnf, call_ebnf
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED

TOKENIZER = TextTokenizer(EMBEDDED)
LIBRARY = LLTokenizer(str(EMBEDDED / "tokenizer.json"))


def thing(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


SCHEMAS: dict[str, Any] = {
    "any": {},
    "object": {"type": "object"},
    "closed": {"type": "object", "additionalProperties": False},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    "person": thing(name={"type": "string", "maxLength": 9}, age={"type": "integer", "minimum": 0, "maximum": 120}),
    "optional": {"properties": {"a": {"type": "null"}, "b": {"type": "boolean"}, "c": {"const": 1}}, "required": ["b"]},
    "none required": {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "boolean"}}},
    "required of no properties": {"type": "object", "required": ["x"]},
    "enum": {"enum": ["a", 'quo"te', 1, None, True, "größe", "名前", 1.5, {"k": [1]}]},
    "typed enum": {"type": "integer", "enum": [1, True, "1", 2]},
    "union": {"anyOf": [{"type": "integer"}, {"type": "null"}, thing(a={"type": "boolean"})]},
    "types": {"type": ["string", "null"], "minLength": 1, "maxLength": 3},
    "exclusive": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6},
    "multiples": {"type": "integer", "minimum": -9, "maximum": 9, "multipleOf": 3},
    "natural": {"type": "integer", "minimum": 1},
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    "exactly none": {"type": "array", "maxItems": 0},
    "tuple": {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False, "minItems": 2},
    "tuple and more": {"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "integer"}, "minItems": 2},
    "formats": thing(**{kind: {"type": "string", "format": kind} for kind in ("date", "time", "date-time", "uuid")}),
    "unicode keys": thing(größe={"type": "integer"}, **{'the "who"': {"type": "null"}}),
    "recursive": {
        "$defs": {
            "node": thing(value={"type": "integer"}, next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})
        },
        "$ref": "#/$defs/node",
    },
    "annotated": {"title": "A", "description": "b", **thing(a={"type": "string", "default": "x", "title": "A"})},
}


def texts_of(guide: Guide, count: int = 12) -> list[str]:
    """Some texts that a grammar allows, at random."""
    grammar, found = LLMatcher.grammar_from_lark(gbnf_to_lark(guide.text)), []
    draw = random.Random(1)
    for _ in range(count):
        matcher, tokens = LLMatcher(LIBRARY, grammar), list[int]()
        while not matcher.is_stopped() and len(tokens) < 150:
            assert not matcher.is_error(), matcher.get_error()
            mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            tokens.append(int(draw.choice(np.flatnonzero(np.unpackbits(mask, bitorder="little")))))
            matcher.consume_token(tokens[-1])
        if matcher.is_stopped():
            found.append(TOKENIZER.decode(tokens))
    return found


@pytest.mark.parametrize("name", SCHEMAS)
def test_all_that_the_grammar_writes_is_valid(name: str) -> None:
    schema = SCHEMAS[name]
    for text in texts_of(as_ebnf(Guide(GuideType.JSON_SCHEMA, json.dumps(schema)))):
        Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        (SCHEMAS["optional"], ['{"b": true}', '{"a": null, "b": false, "c": 1}', '{"a": null, "b": true}']),
        (SCHEMAS["none required"], ["{}", '{"a": null}', '{"b": true}', '{"a": null, "b": true}']),
        (SCHEMAS["array"], ["[true]", "[true, false, true]"]),
        (SCHEMAS["enum"], ['"gr\\u00f6\\u00dfe"', '"quo\\"te"', '{"k": [1]}']),
        (SCHEMAS["multiples"], ["-9", "0", "9"]),
        (SCHEMAS["person"], ['{"name": "größer", "age": 120}']),
        (SCHEMAS["any"], ['{"a": [1, -2.5e10, "x\\n"], "b": {}}', "[]", "null"]),
    ],
)
def test_it_writes_what_an_answer_needs(schema: Any, texts: list[str]) -> None:
    grammar = LLMatcher.grammar_from_lark(gbnf_to_lark(as_ebnf(Guide(GuideType.JSON_SCHEMA, json.dumps(schema))).text))
    for text in texts:
        matcher = LLMatcher(LIBRARY, grammar)
        assert matcher.consume_tokens(TOKENIZER.encode(text)), text
        assert matcher.is_accepting()


REGEXES = (
    r"[a-f]{3}-[0-9]{2}", r"(def|class) [a-z]{2,8}\(\):", r"^\d{3}-\w+\.(com|org)$", r"(?:a|名前)x", r"[^\s\d]{2}",
    r"ab?c*d+", r"[\]\-a]{2}", r".{3}", r"\$\d+\.\d{2}", r"[-+]?\d", r"[^\]]{2}", r"[äö]+", r"a||b", r"(ab)+", r"()x",
)  # fmt: skip


@pytest.mark.parametrize("pattern", REGEXES)
def test_a_regular_expression_matches_what_its_grammar_writes(pattern: str) -> None:
    for text in texts_of(as_ebnf(Guide(GuideType.REGEX, pattern)), 8):
        assert re.fullmatch(pattern, text, re.ASCII), text


DEEP: Any = {}
for _ in range(100):
    DEEP = {"type": "array", "items": DEEP}
REFUSED: dict[str, tuple[GuideType, Any, str]] = {
    "a keyword": (GuideType.JSON_SCHEMA, {"not": {"type": "string"}}, "'not'"),
    "a bound": (GuideType.JSON_SCHEMA, {"type": "number", "minimum": 1}, "'minimum'"),
    "a pattern": (GuideType.JSON_SCHEMA, {"type": "string", "pattern": "a"}, "'pattern'"),
    "a format": (GuideType.JSON_SCHEMA, {"type": "string", "format": "email"}, "email"),
    "a long string": (GuideType.JSON_SCHEMA, {"type": "string", "maxLength": 5000}, "lengths"),
    "a wide range": (GuideType.JSON_SCHEMA, {"type": "integer", "minimum": 0, "maximum": 10**9}, "maximum"),
    "one of": (GuideType.JSON_SCHEMA, {"oneOf": [{"type": "null"}, {"type": "string"}]}, "oneOf"),
    "all of": (GuideType.JSON_SCHEMA, {"allOf": [{"type": "null"}, {"type": "string"}]}, "allOf"),
    "endless": (
        GuideType.JSON_SCHEMA,
        {"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"},
        "endl",
    ),
    "many references": (
        GuideType.JSON_SCHEMA,
        {"$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(600)}},
        "500",
    ),
    "itself": (GuideType.JSON_SCHEMA, {"$ref": "#"}, "endless"),
    "itself or null": (GuideType.JSON_SCHEMA, {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "itself"),
    "nothing": (GuideType.JSON_SCHEMA, {"$ref": "#/$defs/a"}, "not in it"),
    "elsewhere": (GuideType.JSON_SCHEMA, {"$ref": "https://example.org/a.json"}, "not in it"),
    "false": (GuideType.JSON_SCHEMA, {"properties": {"a": False}}, "false"),
    "no schema": (GuideType.JSON_SCHEMA, "text", "no value"),
    "a type": (GuideType.JSON_SCHEMA, {"type": "strin"}, "strin"),
    "no list": (GuideType.JSON_SCHEMA, {"enum": 5}, "enum"),
    "no format": (GuideType.JSON_SCHEMA, {"type": "string", "format": {}}, "format"),
    "no type": (GuideType.JSON_SCHEMA, {"type": [{}], "const": 1}, "no value"),
    "no name": (GuideType.JSON_SCHEMA, {"type": "object", "required": [[]]}, "names"),
    "deep": (GuideType.JSON_SCHEMA, DEEP, "deep"),
    "large": (GuideType.JSON_SCHEMA, {"enum": ["x" * 70_000]}, "65536"),
    "large when written": (GuideType.JSON_SCHEMA, {"enum": ["é" * 20_000]}, "too large"),
    "items": (GuideType.JSON_SCHEMA, {"type": "array", "items": {}, "minItems": 10**6}, "512"),
    "a group": (GuideType.REGEX, "(a", "close"),
    "a closed group": (GuideType.REGEX, "a)", "opened"),
    "looking around": (GuideType.REGEX, "(?=a)b", "(?=a"),
    "referring back": (GuideType.REGEX, r"(a)\1", r"\1"),
    "Unicode": (GuideType.REGEX, r"\p{L}", r"\p"),
    "lazy": (GuideType.REGEX, "a+?", "lazily"),
    "nothing repeated": (GuideType.REGEX, "(a*)*", "nothing"),
    "explodes": (GuideType.REGEX, "(a{60}){60}", "repeats a group"),
    "many": (GuideType.REGEX, "a{9999}", "512|64"),
    "nested": (GuideType.REGEX, "(" * 2000 + "a" + ")" * 2000, "deep"),
    "long": (GuideType.REGEX, "a" * 5000, "4096"),
    "a class": (GuideType.REGEX, "[a", "class"),
    "a byte": (GuideType.CHOICE, ["größe"], "U+00FF"),
    "Lark": (GuideType.LARK, 'start: "a"', "grammar"),
    "GBNF": (GuideType.EBNF_GRAMMAR, "root ::= root", "grammar"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_held_to_is_refused_by_name(name: str) -> None:
    kind, form, told = REFUSED[name]
    started = time.process_time()
    text = form if isinstance(form, str) and kind is not GuideType.JSON_SCHEMA else json.dumps(form, ensure_ascii=False)
    with pytest.raises(FormError, match=told if "|" in told else re.escape(told)):
        as_ebnf(Guide(kind, text))
    assert time.process_time() - started < 1


def test_a_lenient_schema_has_such_keywords_passed_over() -> None:
    schema = {**thing(a={"type": "string", "format": "email", "maxLength": 900, "pattern": "a"}, n={"type": "number",
              "minimum": 3}), "x-guidance": {"lenient": True}}  # fmt: skip
    assert texts_of(as_ebnf(Guide(GuideType.JSON_SCHEMA, json.dumps(schema))))


@pytest.mark.parametrize("odd", [5, None, "a", []])
def test_guidance_that_is_no_object_is_passed_over(odd: Any) -> None:
    schema = Guide(GuideType.JSON_SCHEMA, json.dumps({**SCHEMAS["person"], "x-guidance": odd}))
    assert as_ebnf(schema) == as_ebnf(Guide(GuideType.JSON_SCHEMA, json.dumps(SCHEMAS["person"])))


def test_a_call_has_its_name_and_its_arguments() -> None:
    functions = [("store", SCHEMAS["person"], True), ("größe", None, False), ("odd", {"not": {}}, False)]
    pattern = re.compile(r' ("[^"]+"), "arguments": (\{.*\})\}', re.DOTALL)
    for text in texts_of(call_ebnf(functions)):
        found = pattern.fullmatch(text)
        assert found, text
        name, arguments = json.loads(found[1]), json.loads(found[2])
        schema = {"store": SCHEMAS["person"], "größe": {"maxProperties": 0}, "odd": {"type": "object"}}[name]
        Draft202012Validator(schema).validate(arguments)
    assert all(text.startswith(' {"name": "') for text in texts_of(call_ebnf(functions[:1])))
    with pytest.raises(ApiError, match="strict parameters of 'odd'"):
        call_ebnf([("odd", {"not": {}}, True)])


def test_the_backend_is_told_of_every_token(tmp_path: Any) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((EMBEDDED / name).read_bytes())
    write_guide_tokens(tmp_path)
    info = json.loads((tmp_path / GUIDE_TOKENS).read_text())
    assert set(info) == {"encoded_vocab", "tokenizer_str", "stop_token_ids"}
    assert info["stop_token_ids"] == TOKENIZER.end_ids
    ids = TOKENIZER.encode("def größe():\n    return 1\n")
    assert b"".join(TOKENIZER.token_bytes(i) for i in ids).decode() == "def größe():\n    return 1\n"
    library = json.loads(info["tokenizer_str"])["model"]["vocab"]
    assert all(library.get(info["encoded_vocab"][i]) == i for i in ids)
    assert not any(info["encoded_vocab"][i] for i in TOKENIZER.special_ids)
