"""Outputs held to a form: always of that form, and token by token those of plain decoding under it."""

import json
import re
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.contract.request import MOST_GUIDE, Guide, GuideType, Request, RequestError, Sampling
from nimble_coder.contract.response import FinishReason
from nimble_coder.engine import form
from nimble_coder.engine.endless import MOST_REFERENCES
from nimble_coder.engine.form import KEPT, MOST_PROPERTIES, SECONDS_PER_TOKEN, Forms
from nimble_coder.engine.generate import Generation, generate
from nimble_coder.engine.torch_engine import TorchEngine
from nimble_coder.gateway.requests.forms import call_guide, turn_guide
from nimble_coder.text.added_tokens import added_tokens
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED
from tests.engine.conftest import LoadEngine

VOCAB = json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))["vocab_size"]
END = TextTokenizer(EMBEDDED).end_ids[0]
PROMPT = [300 + i % 7 for i in range(40)]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "roles": {"type": "array", "items": {"enum": ["admin", "user"]}, "minItems": 1, "maxItems": 3},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string", "maxLength": 6}, "number": {"type": ["integer", "null"]}},
            "required": ["street", "number"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "roles", "address"],
    "additionalProperties": False,
}
FORMS = {
    "schema": Guide(GuideType.JSON_SCHEMA, json.dumps(PERSON)),
    "regex": Guide(GuideType.REGEX, r"(def|class) [a-z]{2,8}\(\):"),
    "gbnf": Guide(GuideType.EBNF_GRAMMAR, 'root ::= item ("," item)* "."\nitem ::= [a-c]+ | "import os"'),
    "lark": Guide(GuideType.LARK, 'start: "return " NAME ("\\n" "return " NAME){3}\nNAME: /[a-z]{1,4}/'),
}
TURN = turn_guide([("store", PERSON, True), ("other", None, False)], None, None)
KINDS = {
    "greedy": None,
    "temperature": Sampling(temperature=1.0),
    "cuts": Sampling(temperature=1.3, top_k=40, top_p=0.9, min_p=0.02),
    "penalties": Sampling(temperature=0.9, repetition_penalty=1.2, presence_penalty=0.4),
    "log probabilities": Sampling(temperature=0.9, log_probs=True, top_log_probs=2),
}
WAYS: dict[str, dict[str, object]] = {"lookahead": {}, "narrow": {"lookahead": LookaheadConfig(1, 3, 1)},
                                      "suffixes": {"draft_tokens": 8}}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(EMBEDDED)


@pytest.fixture(scope="module")
def forms() -> Forms:
    return Forms(EMBEDDED, VOCAB, added_tokens(EMBEDDED))


PATTERNS = [{"type": "string", "pattern": f".*a{i}.*"} for i in range(40)]


def hidden(reference: str, more: dict[str, object], place: str = "$defs", name: str | None = None) -> str:
    """Forty patterns for one string, each of which refers to the next one by something else than its place, or by one
    that is easily misread; `name` is the keyword that each is told apart by."""
    parts = {f"d{i}": {**part, "$ref": reference.format(i + 1)} for i, part in enumerate(PATTERNS)}
    named = {key: {**part, **({name: key} if name else {})} for key, part in parts.items()} | {"d40": {}}
    return json.dumps({"$ref": reference.format(0), place: named, **more})


def within(part: str, more: dict[str, object]) -> str:
    """A schema with another one in it, in which references mean places in that one."""
    return json.dumps({**more, "type": "object", "properties": {"a": json.loads(part)}, "required": ["a"]})


HIDING = {
    "anchors": hidden("#d{}", {}, name="$anchor"),
    "identifiers": hidden("d{}", {"$id": "http://a/b"}, name="$id"),
    "the whole's identifier": hidden("http://a/b#/$defs/d{}", {"$id": "http://a/b"}),
    "the whole's name": hidden("b#/$defs/d{}", {"$id": "http://a/b"}),
    "a part's identifier": within(
        hidden("#/$defs/d{}", {"$id": "http://a/c"}), {"$defs": {f"d{i}": {} for i in range(41)}}
    ),
    "a part's identifier in draft 4": within(
        hidden("#/$defs/d{}", {"id": "http://a/c"}),
        {"$schema": "http://json-schema.org/draft-04/schema#", "$defs": {f"d{i}": {} for i in range(41)}},
    ),
    "a name that is empty": hidden("#//d{}", {}, place=""),
    "a place with a sign": json.dumps(
        {"$ref": "#/a/+0", "a": [{**part, "$ref": f"#/a/+{i + 1}"} for i, part in enumerate(PATTERNS)] + [{}]}
    ),
    "a slash that is encoded": hidden("#/$defs%2Fd{}", {}),
}


@pytest.mark.parametrize("name", HIDING)
def test_no_reference_hides_what_takes_minutes(forms: Forms, name: str) -> None:
    started = time.process_time()
    for text in (HIDING[name], json.dumps({**json.loads(HIDING[name]), "x-guidance": {"lenient": True}})):
        with pytest.raises(RequestError, match=r"more than 6 patterns|is not in the schema|has it mean another place"):
            forms.open(Guide(GuideType.JSON_SCHEMA, text), {END})
    assert time.process_time() - started < 1


def test_names_that_move_no_reference_are_left_alone(forms: Forms) -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "http://a/b",
        "type": "object",
        "properties": {"id": {"$ref": "#/$defs/x"}, "$id": {"$ref": "#/%24defs/x"}},
        "required": ["id", "$id"],
        "$defs": {"x": {"$id": "x", "$anchor": "y", "type": "integer", "examples": [{"id": "z"}]}},
    }
    forms.open(Guide(GuideType.JSON_SCHEMA, json.dumps(schema)), {END})


def references(count: int) -> list[list[object]]:
    """Schemas that each refer to the next one, in lists of 400."""
    chain: list[object] = [{"allOf": [{"$ref": f"#/a/{i // 400}/{i % 400}"}]} for i in range(1, count)]
    chain.append({"type": "null"})
    return [chain[start : start + 400] for start in range(0, count, 400)]


def has_form(guide: Guide, text: str) -> bool:
    if guide.type is GuideType.JSON_SCHEMA:
        return bool(Draft202012Validator(json.loads(guide.text)).is_valid(json.loads(text)))
    pattern = {
        "regex": guide.text,
        "ebnf_grammar": r"([a-c]+|import os)(,([a-c]+|import os))*\.",
        "lark": r"return [a-z]{1,4}(\nreturn [a-z]{1,4}){3}",
    }[guide.type.value]
    return re.fullmatch(pattern, text) is not None


def told(generation: Generation) -> tuple[object, ...]:
    return generation.token_ids, generation.finish_reason, generation.log_probs


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMS)
def test_an_output_under_a_form_has_it_and_is_that_of_plain_decoding(
    engine: TorchEngine, tokenizer: TextTokenizer, name: str, kind: str, way: str
) -> None:
    guide, accepted = FORMS[name], 0
    for seed in range(3):
        request = Request(PROMPT, 150, seed=seed, sampling=KINDS[kind], end_id=END, guide=guide)
        (plain,) = generate(engine, [replace(request, lookahead=PLAIN)])
        (drafted,) = generate(engine, [replace(request, **WAYS[way])])  # type: ignore[arg-type]
        assert told(drafted) == told(plain)
        assert drafted.error is None
        assert drafted.metrics
        accepted += drafted.metrics.total_accepted_draft_tokens
        if drafted.finish_reason is not FinishReason.LENGTH:
            assert has_form(guide, tokenizer.decode(drafted.token_ids))
    if name == "schema":
        assert accepted > 20  # the keys are forced, whatever the model would say


def test_in_batches_with_prompts_in_the_cache(engine: TorchEngine, tokenizer: TextTokenizer) -> None:
    requests = [
        Request(PROMPT, 120, guide=FORMS["schema"], end_id=END),
        Request(PROMPT, 60),
        Request(PROMPT[:20], 120, seed=2, sampling=KINDS["temperature"], guide=FORMS["regex"], end_id=END),
        Request(PROMPT, 120, seed=7, sampling=KINDS["cuts"], guide=FORMS["schema"], end_id=END),
    ]
    plain = generate(engine, [replace(request, lookahead=PLAIN) for request in requests])
    for _ in range(2):
        assert list(map(told, generate(engine, requests))) == list(map(told, plain))
    assert json.loads(tokenizer.decode(plain[0].token_ids))


def test_an_answer_ends_where_its_form_does_without_an_end_id(engine: TorchEngine, tokenizer: TextTokenizer) -> None:
    guide = Guide(GuideType.REGEX, "import (os|sys)")
    for end_id in (None, END):
        (generation,) = generate(engine, [Request(PROMPT, 50, guide=guide, end_id=end_id)])
        assert tokenizer.decode(generation.token_ids) in ("import os", "import sys")
        assert generation.finish_reason is FinishReason.END_ID


def test_a_form_that_may_go_on_is_ended_by_the_model_or_the_limit(
    engine: TorchEngine, tokenizer: TextTokenizer
) -> None:
    guide = Guide(GuideType.REGEX, "a+")
    (free,) = generate(engine, [Request(PROMPT, 30, guide=guide)])
    assert free.finish_reason is FinishReason.LENGTH
    assert set(tokenizer.decode(free.token_ids)) == {"a"}
    favoured = Sampling(temperature=0.0, logit_bias=((END, 100.0),))
    (ended,) = generate(engine, [Request(PROMPT, 30, guide=guide, end_id=END, sampling=favoured)])
    assert (ended.finish_reason, len(ended.token_ids)) == (FinishReason.END_ID, 1)
    (later,) = generate(
        engine, [Request(PROMPT, 30, guide=guide, end_id=END, sampling=replace(favoured, min_tokens=7))]
    )
    assert (later.finish_reason, len(later.token_ids)) == (FinishReason.END_ID, 7)


def test_a_form_that_does_not_fit_ends_with_length(engine: TorchEngine, tokenizer: TextTokenizer) -> None:
    (generation,) = generate(engine, [Request(PROMPT, 6, guide=FORMS["schema"], end_id=END)])
    assert (generation.finish_reason, len(generation.token_ids)) == (FinishReason.LENGTH, 6)
    assert tokenizer.decode(generation.token_ids).startswith('{"name": "')


def test_a_stop_word_ends_it_earlier(engine: TorchEngine, tokenizer: TextTokenizer) -> None:
    guide = FORMS["schema"]
    (whole,) = generate(engine, [Request(PROMPT, 150, guide=guide, end_id=END)])
    stop = whole.token_ids[5:7]
    (stopped,) = generate(engine, [Request(PROMPT, 150, guide=guide, end_id=END, stop_words=[stop])])
    assert stopped.finish_reason is FinishReason.STOP_WORDS
    assert stopped.token_ids == whole.token_ids[: len(stopped.token_ids)]
    assert stopped.token_ids[-2:] == stop


def test_no_other_rule_can_break_a_form(engine: TorchEngine, tokenizer: TextTokenizer) -> None:
    guide = Guide(GuideType.REGEX, "ab|ac")
    forbidden = Sampling(min_tokens=20, logit_bias=tuple((i, -100.0) for i in range(VOCAB)))
    (generation,) = generate(engine, [Request(PROMPT, 20, guide=guide, end_id=END, sampling=forbidden)])
    assert tokenizer.decode(generation.token_ids) in ("ab", "ac")


ENDLESS = {"$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}}}
BAD = {
    "no JSON": ("json_schema", "{"),
    "no schema": ("json_schema", '"text"'),
    "endless": ("json_schema", json.dumps({**ENDLESS, "$ref": "#/$defs/a"})),
    "refers to itself": ("json_schema", '{"$ref": "#"}'),
    "refers to nothing": ("json_schema", '{"$ref": "#/$defs/a"}'),
    "a keyword": ("json_schema", '{"not": {"type": "string"}}'),
    "an unknown type": ("json_schema", '{"type": "strin"}'),
    "nothing has it": ("json_schema", '{"type": "integer", "minimum": 2, "maximum": 1}'),
    "too deep": ("json_schema", '{"items":' * 5000 + "{}" + "}" * 5000),
    "too large": ("json_schema", json.dumps({"enum": ["x" * 1_000_000]})),
    "many properties": ("json_schema", json.dumps({"properties": {f"k{i}": {} for i in range(6000)}})),
    "patterns at once": (
        "json_schema",
        json.dumps({"allOf": [{"type": "string", "pattern": f".*a{i}"} for i in range(40)]}),
    ),
    "patterns of a member": (
        "json_schema",
        json.dumps({"allOf": [{"properties": {"a": {"type": "string", "pattern": f".*a{i}.*"}}} for i in range(40)]}),
    ),
    "patterns in a chain": (
        "json_schema",
        json.dumps(
            {
                "$ref": "#/$defs/d0",
                "$defs": {
                    f"d{i}": {"type": "string", "pattern": f".*a{i}.*", "$ref": f"#/$defs/d{i + 1}"} for i in range(40)
                },
            }
        ),
    ),
    "a large multiple": ("json_schema", '{"type": "integer", "multipleOf": 999983}'),
    "a fine multiple": ("json_schema", '{"type": "number", "multipleOf": 0.0999983}'),
    "a huge multiple": ("json_schema", '{"type": "integer", "multipleOf": 1e17}'),
    "multiples at once": (
        "json_schema",
        json.dumps({"allOf": [{"type": "integer", "multipleOf": m} for m in (97, 89)]}),
    ),
    "a regex": ("regex", "(a"),
    "looks around": ("regex", "(?=a)b"),
    "refers back": ("regex", r"(a)\1"),
    "matches nothing": ("regex", r"[^\s\S]"),
    "nested": ("regex", "(" * 20_000 + "a" + ")" * 20_000),
    "a grammar": ("ebnf_grammar", "root ::= missing"),
    "a grammar's syntax": ("ebnf_grammar", "root = 1"),
    "a deep grammar": ("ebnf_grammar", "root ::= " + "(" * 20_000),
    "lark": ("lark", "start: foo"),
    "a chain of rules": (
        "ebnf_grammar",
        "root ::= r0\n" + "\n".join(f'r{i} ::= "a" r{i + 1} | "b"' for i in range(2400)) + '\nr2400 ::= "c"',
    ),
    "a text without an end": ("lark", 'start: "' + '\\"' * 30_000),
    "a regular expression without an end": ("lark", "start: " + "/\\" * 30_000),
    "references in a chain": ("json_schema", json.dumps({"$ref": "#/a/0/0", "a": references(600)})),
    "endless in every place": (
        "json_schema",
        json.dumps(
            {
                "$ref": "#/b",
                "b": {"allOf": [*[{}] * 2000, {"$ref": "#/b"}]},
                "c": [{"$ref": f"#/{'%63' * count}{'c' * (60 - count)}"} for count in range(60)],
                "c" * 60: {},
                "a": {str(i): {"$ref": f"#/a/{i + 1}"} for i in range(300)},
            }
        ),
    ),
    "references to a list": ("json_schema", json.dumps({"a": [1] * 6000, "anyOf": [{"$ref": "#/a"}] * 2500})),
    "the least integer": ("json_schema", f'{{"const": {-(2**63)}}}'),
    "the least integer deep": ("json_schema", f'{{"enum": [{{"a": [{-(2**63) + 100}]}}]}}'),
    "a large negative number": ("json_schema", '{"type": "integer", "enum": [-1e19, 1]}'),
    "a large integer": ("json_schema", f'{{"const": {2**63}}}'),
    "an integer between floats": ("json_schema", f'{{"enum": [1, {{"a": {2**53 + 1}}}]}}'),
    "the least integers": ("json_schema", f'{{"type": "integer", "minimum": {-(2**63)}, "maximum": {-(2**63) + 9}}}'),
    "the least integers in lark": ("lark", f'start: %json {{"const": {-(2**63)}}}'),
    "one behind what looks like a schema": ("lark", f'start: /%json "/ %json {{"const": {-(2**63)}}}'),
    "terminals at once": ("lark", "start: A\nA: " + " & ".join(f"/.*a{i}.*/" for i in range(40))),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_form_is_refused_within_a_second(forms: Forms, name: str) -> None:
    kind, text = BAD[name]
    started = time.process_time()
    with pytest.raises(RequestError, match="guided_decoding_guide") as caught:
        forms.open(Guide(GuideType(kind), text), {END})
    assert time.process_time() - started < 1
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"items":' * 600 + "{}" + "}" * 600, "is nested too deeply"),
        (json.dumps({"type": "integer", "minimum": 10**400}), "has a number that no float of 64 bits holds"),
    ],
)
def test_what_python_cannot_do_is_said_in_words(forms: Forms, text: str, said: str) -> None:
    with pytest.raises(RequestError, match=rf"guided_decoding_guide\) {said}$"):
        forms.open(Guide(GuideType.JSON_SCHEMA, text), {END})


def test_what_a_regular_expression_has_wrong_is_said(forms: Forms) -> None:
    with pytest.raises(RequestError, match=r"parse error: look-around, .* is not supported"):
        forms.open(Guide(GuideType.JSON_SCHEMA, '{"type": "string", "pattern": "(?=a)b"}'), {END})


def test_a_schemas_text_may_speak_of_schemas(forms: Forms) -> None:
    for said in ("as %json is", 'as in %json {"a": 1}'):
        parameters = {"type": "object", "description": said, "properties": {"a": {"enum": [said]}}}
        forms.open(turn_guide([("store", parameters, True)], None, None), {END})


@pytest.mark.parametrize("text", ["# %json {", '// %json {"', r'/%json \{/ "%json"'])
def test_what_is_no_schema_in_lark_is_none(forms: Forms, text: str) -> None:
    forms.open(Guide(GuideType.LARK, f'start: "a" %json {{"const": 1}} {text}'), {END})


DEEP = {
    "rules": ("lark", "\n".join(["start: r0", *(f"r{i}: r{i + 1}" for i in range(3500)), 'r3500: "a"'])),
    "references": ("json_schema", json.dumps({"$ref": "#/a/0/0", "a": references(MOST_REFERENCES - 1)})),
}


@pytest.mark.parametrize("name", DEEP)
def test_a_deep_form_ends_no_process(forms: Forms, name: str) -> None:
    kind, text = DEEP[name]
    with suppress(RequestError):
        forms.open(Guide(GuideType(kind), text), {END})


@pytest.mark.parametrize("way", ["limits", "time"])
def test_a_form_that_turns_out_to_be_too_complex_ends_its_own_answer_alone(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    more = " | ".join("/[a-z]/ " * count + "e" for count in (1, 2, 3, 4))
    guide = Guide(GuideType.LARK, f"start: e\ne: {more} | /[a-z]/")  # a row of Earley's grows with every letter
    if way == "time":
        monkeypatch.setattr(form, "FREE_SECONDS", -SECONDS_PER_TOKEN * 20)
    others = [Request(PROMPT, 60), Request(PROMPT, 120, guide=FORMS["schema"], end_id=END)]
    alone = generate(engine, others) if way == "limits" else generate(engine, others[:1])
    failed, *beside = generate(engine, [Request(PROMPT, 2000, guide=guide), *others[: len(alone)]])
    assert failed.error
    assert "guided_decoding_guide) is too complex" in str(failed.error)
    assert list(map(told, beside)) == list(map(told, alone))


def test_the_largest_form_is_compiled_within_a_second(forms: Forms) -> None:
    properties = {f"key{i}": {"type": "string", "maxLength": 9} for i in range(MOST_PROPERTIES - 40)}
    objects = {f"part{i}": {"type": "object", "properties": properties} for i in range(3)}
    text = json.dumps({"type": "object", "properties": objects})
    assert MOST_GUIDE * 0.9 < len(text) <= MOST_GUIDE
    started = time.process_time()
    forms.open(Guide(GuideType.JSON_SCHEMA, text), {END})
    assert time.process_time() - started < 1


@pytest.mark.parametrize("count", [7, 4000])
def test_one_of_many_choices_is_written(engine: TorchEngine, tokenizer: TextTokenizer, count: int) -> None:
    choices = [f"choice {number}" for number in range(count)]
    guide = Guide(GuideType.CHOICE, json.dumps(choices))
    (generation,) = generate(engine, [Request(PROMPT, 30, guide=guide, end_id=END)])
    assert tokenizer.decode(generation.token_ids) in choices


def test_ten_thousand_values_are_compiled_within_a_second(forms: Forms) -> None:
    started = time.process_time()
    form = forms.open(Guide(GuideType.JSON_SCHEMA, json.dumps({"enum": list(range(10_000))})), {END})
    form.hold(np.zeros(VOCAB, np.float32))
    assert time.process_time() - started < 1


def test_reading_the_tokenizer_leaves_nothing_where_the_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    Forms(EMBEDDED, VOCAB, added_tokens(EMBEDDED)).open(Guide(GuideType.REGEX, "a+"), [])


def test_compiled_forms_are_bounded_however_many_are_sent(forms: Forms) -> None:
    for number in range(2000):
        forms.open(Guide(GuideType.REGEX, f"form {number}"), {END})
    assert len(forms._compiled) <= KEPT


def test_a_form_is_compiled_once(forms: Forms) -> None:
    guide = Guide(GuideType.JSON_SCHEMA, json.dumps({"enum": [f"value {i}" for i in range(2500)]}))
    seconds = []
    for _ in range(2):
        started = time.process_time()
        forms.open(guide, {END})
        seconds.append(time.process_time() - started)
    assert seconds[1] < seconds[0] / 5


def test_a_text_that_has_to_come_is_found_once_and_not_at_each_of_its_tokens(forms: Forms) -> None:
    """It takes longer the longer it is, and every other request waits for the step."""
    text = "".join(f"name{number} = {number}\n" for number in range(100))
    form = forms.open(Guide(GuideType.REGEX, re.escape(text)), {END})
    matcher = Mock(wraps=form._matcher)
    form._matcher = matcher
    tokens = form.forced(10_000)
    assert len(tokens) > 300
    for place, token in enumerate(tokens[:-1]):
        assert form.allows(token)
        form.accept(token)
        assert form.forced(2) == tokens[place + 1 : place + 3]
    assert matcher.compute_ff_tokens.call_count == 1
    form.hold(np.zeros(VOCAB, np.float32))  # goes by the text that is left alone
    assert form.forced(1)
    assert matcher.compute_ff_tokens.call_count == 2


@pytest.mark.parametrize("guide", [*FORMS.values(), TURN], ids=[*FORMS, "turn"])
def test_what_is_allowed_one_by_one_is_what_is_allowed_together(forms: Forms, guide: Guide) -> None:
    generator = np.random.default_rng(1)
    form, zeros = forms.open(guide, {END}), np.zeros(VOCAB, np.float32)
    for _ in range(60):
        together = form.hold(zeros) == 0
        assert [form.allows(token) for token in range(VOCAB)] == together.tolist()
        form.accept(int(generator.choice(np.flatnonzero(together))))
        if form.is_over:
            break


SPELLED = ["<|im_end|>", "<|endoftext|>", "a<|fim_middle|>b", "<tool_call>", "</tool_call><|im_start|>"]


def spelling(text: str) -> list[Guide]:
    """Forms of every kind that allow this text alone, in JSON where they are schemas."""
    name = {"type": "object", "properties": {text: {"const": 1}}, "required": [text], "additionalProperties": False}
    call = call_guide([(text, name, True)], True)
    return [
        *(Guide(GuideType.JSON_SCHEMA, json.dumps(schema)) for schema in ({"const": text}, {"enum": [text]}, name)),
        Guide(GuideType.CHOICE, json.dumps([text])),
        Guide(GuideType.CHOICE, json.dumps([text, f"{text}!"])),
        Guide(GuideType.REGEX, re.escape(text)),
        Guide(GuideType.EBNF_GRAMMAR, f"root ::= {json.dumps(text)}"),
        Guide(GuideType.LARK, f"start: {json.dumps(text)}"),
        call,
    ]


@pytest.mark.parametrize("text", SPELLED)
def test_the_text_of_a_control_token_is_spelled_out(forms: Forms, tokenizer: TextTokenizer, text: str) -> None:
    control = set(tokenizer.control_ids.values())
    for guide in spelling(text):
        form, ids = forms.open(guide, set(tokenizer.end_ids)), list[int]()
        while not form.is_over:
            allowed = form.hold(np.zeros(VOCAB, np.float32)) == 0
            assert [form.allows(token) for token in control] == [bool(allowed[token]) for token in control]
            may_end = allowed[tokenizer.end_ids].all()
            ids.append(END if may_end else int(np.flatnonzero(allowed)[0]))
            assert form.forced(1) in ([], ids[-1:])
            form.accept(ids[-1])
        said = [i for i in ids if i not in control]
        assert text in tokenizer.decode(said)
        assert [i for i in ids[:-1] if i in control] == []


def test_a_grammar_may_name_control_tokens(forms: Forms, tokenizer: TextTokenizer) -> None:
    texts = '"<tool_call>" /<tool_call>\n<tool_call>/ %json {"const": "<tool_call>"}'
    form = forms.open(Guide(GuideType.LARK, f"start: <tool_call> {texts}  // not / <tool_call>"), {END})
    call = tokenizer.encode("<tool_call>")[0]
    assert form.allows(call)
    form.accept(call)
    assert tokenizer.decode(form.forced(99)) == '<tool_call><tool_call>\n<tool_call>"<tool_call>"'
    assert call not in form.forced(99)
    with pytest.raises(RequestError, match="<no_token>"):
        forms.open(Guide(GuideType.LARK, "start: <no_token>"), {END})


@pytest.mark.parametrize("kind", KINDS)
def test_calls_in_a_turn_are_those_of_plain_decoding(engine: TorchEngine, tokenizer: TextTokenizer, kind: str) -> None:
    call = tokenizer.encode("<tool_call>")[0]
    sampling = replace(KINDS[kind] or Sampling(temperature=0.0), logit_bias=((call, 18.0), (END, -100.0)))
    for seed in range(3):
        request = Request(PROMPT, 150, seed=seed, sampling=sampling, end_id=END, guide=TURN)
        (plain,) = generate(engine, [replace(request, lookahead=PLAIN)])
        assert call in plain.token_ids
        for way in WAYS.values():
            (drafted,) = generate(engine, [replace(request, **way)])  # type: ignore[arg-type]
            assert told(drafted) == told(plain)


def test_an_engine_without_a_tokenizer_says_so(load_engine: LoadEngine, tmp_path: Path) -> None:
    engine = load_engine(tokenizer=False)
    with pytest.raises(RequestError, match="without a tokenizer"):
        engine.enqueue(Request(PROMPT, 5, guide=FORMS["regex"]))
