"""The tokens that a form allows, those that it forces, and what is kept of it."""

import json
import re
import tempfile
import time
from unittest.mock import Mock

import numpy as np
import pytest

from nimble_coder.contract.request import Guide, GuideType, RequestError
from nimble_coder.engine.form import KEPT, Forms
from nimble_coder.gateway.requests.forms import call_guide
from nimble_coder.text.added_tokens import added_tokens
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED
from tests.engine.forms import END, FORMS, TURN, VOCAB


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
